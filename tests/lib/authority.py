# SPDX-License-Identifier: GPL-2.0-or-later
"""Certificates in QEMU's layout, of authorities that live in folders of a test."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
CONFIG = """[ca]
default_ca = own
[own]
dir = .
database = index
serial = serial
crlnumber = crlnumber
new_certs_dir = .
certificate = ca-cert.pem
private_key = ca-key.pem
default_md = sha256
default_days = 2
default_crl_days = 2
policy = any
unique_subject = no
[any]
commonName = supplied
"""


def _moment(days: float) -> str:
    then = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    return then.strftime("%Y%m%d%H%M%SZ")


class Authority:
    """Somebody who signs certificates; ABOVE, if there is one, signed this authority's own."""

    def __init__(self, folder: Path, above: Authority | None = None, name: str = "authority"):
        self.folder = folder
        self.above = above
        folder.mkdir()
        (folder / "ca.conf").write_text(CONFIG)
        (folder / "index").touch()
        for count in ("serial", "crlnumber"):
            (folder / count).write_text("1000\n")
        usage = "keyUsage=critical,keyCertSign,cRLSign"
        if above is None:
            self._openssl("req", "-x509", *CURVE, "-keyout", "ca-key.pem", "-out", "ca-cert.pem",
                          "-days", "2", "-subj", f"/CN={name}", "-addext", usage)
        else:
            above._issue(name, f"basicConstraints=critical,CA:TRUE\n{usage}\n", 0, 2,
                         folder / "ca-cert.pem", folder / "ca-key.pem")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    def _issue(self, name: str, extensions: str, begins: float, ends: float, cert: Path,
               key: Path) -> None:
        (self.folder / "extensions").write_text(extensions)
        self._openssl("req", *CURVE, "-keyout", str(key), "-out", "request.pem", "-subj",
                      f"/CN={name}")
        self._openssl("ca", "-batch", "-notext", "-config", "ca.conf", "-in", "request.pem",
                      "-out", str(cert), "-extfile", "extensions", "-startdate",
                      _moment(begins - 0.01), "-enddate", _moment(ends))

    def chain(self) -> bytes:
        """What stands between those it signs and the authority at the top."""
        if self.above is None:
            return b""
        return (self.folder / "ca-cert.pem").read_bytes() + self.above.chain()

    def top(self) -> Authority:
        return self if self.above is None else self.above.top()

    def sign(self, role: str, names: str, place: Path, *, purpose: str = "", begins: float = 0,
             ends: float = 2, common: str = "") -> Path:
        """Put into PLACE what the end with this ROLE (server, client) needs to be NAMES.

        NAMES are as in subjectAltName; it is valid from BEGINS days from now until ENDS.
        """
        place.mkdir(exist_ok=True)
        alternative = f"subjectAltName={names}\n" if names else ""
        cert = place / f"{role}-cert.pem"
        self._issue(common or names.partition(",")[0].partition(":")[2],
                    f"{alternative}basicConstraints=critical,CA:FALSE\n"
                    f"extendedKeyUsage={purpose or role}Auth\n"
                    "keyUsage=critical,digitalSignature\n", begins, ends, cert,
                    place / f"{role}-key.pem")
        cert.write_bytes(cert.read_bytes() + self.chain())
        (place / "ca-cert.pem").write_bytes((self.top().folder / "ca-cert.pem").read_bytes())
        return place

    def revoke(self, cert: Path) -> None:
        self._openssl("ca", "-config", "ca.conf", "-revoke", str(cert))

    def write_revoked(self, place: Path, *more: str) -> None:
        """The list of what was revoked, as ca-crl.pem."""
        self._openssl("ca", "-config", "ca.conf", "-gencrl", "-out", str(place / "ca-crl.pem"),
                      *more)
