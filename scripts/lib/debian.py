# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian packages of any architecture and release, without installing one on this machine.

Where packages come from is read from the machine's own apt configuration; this project names no
mirror.  Every (release, architecture) gets a private apt state in the cache, so that neither
dpkg's architectures nor the machine's lists are touched, and a user without root can do it.
"""

import os
import pwd
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import cache
from say import Failure, note

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
LISTS_AGE = 24 * 3600


@dataclass(frozen=True)
class Source:
    """One line of an apt configuration."""
    uri: str
    suite: str
    components: str


def codename() -> str:
    """The release this machine runs: bookworm, trixie."""
    try:
        text = Path("/etc/os-release").read_text()
    except OSError as error:
        raise Failure(f"this is no Debian system: {error}",
                      "Debian 12 and 13 are supported") from error
    found = re.search(r"^VERSION_CODENAME=(\w+)", text, re.M)
    if not found or not re.search(r"^ID=debian$", text, re.M):
        raise Failure("this is not Debian", "Debian 12 and 13 are supported")
    return found.group(1)


def _stanzas(text: str) -> list[Source]:
    """Read a deb822 .sources file."""
    sources = []
    for stanza in re.split(r"\n\s*\n", text):
        stanza = re.sub(r"^#.*\n?", "", stanza, flags=re.M)
        fields = {k.lower(): v.strip()
                  for k, v in re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t]+.*)*)", stanza, re.M)}
        if fields.get("enabled", "yes").lower() == "no":
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                sources.append(Source(uri, suite, " ".join(fields.get("components", "").split())))
    return sources


def _lines(text: str) -> list[Source]:
    """Read a one-line-style .list file."""
    found = re.findall(r"^\s*deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(.*?)\s*(?:#.*)?$", text, re.M)
    return [Source(*row) for row in found]


def machine_sources() -> list[Source]:
    """The machine's own sources for its release: main archive, updates and security."""
    apt = Path("/etc/apt")
    sources = []
    for file in [apt / "sources.list", *sorted(apt.glob("sources.list.d/*"))]:
        if file.suffix == ".sources":
            sources += _stanzas(file.read_text())
        elif file.suffix == ".list" and file.is_file():
            sources += _lines(file.read_text())
    name = codename()
    own = [s for s in sources if re.fullmatch(rf"{name}(-updates|-security)?", s.suite)
           and "main" in s.components.split()]
    if not own:
        raise Failure(f"apt's configuration names no source of Debian {name}",
                      "add one to /etc/apt/sources.list.d and try again")
    return own


def _sources_for(release: str) -> list[Source]:
    """The same places, asked for RELEASE; an older machine's list serves the newer release."""
    name = codename()
    return [Source(s.uri, s.suite.replace(name, release), "main") for s in machine_sources()]


class Apt:
    """A private apt for one release and architecture."""

    def __init__(self, architecture: str, release: str | None = None, kind: str = "deb"):
        self.architecture = architecture
        self.release = release or codename()
        self.kind = kind
        self.top = cache.root() / "apt" / f"{self.release}-{architecture}-{kind}"
        self.name = f"apt-{self.top.name}"

    def _write_sources(self, sources: list[Source]) -> None:
        lines = [f"{self.kind} [signed-by={KEYRING}] {s.uri} {s.suite} {s.components}"
                 for s in sources]
        (self.top / "sources.list").write_text("\n".join(lines) + "\n")

    def _configure(self) -> None:
        for folder in ("lists/partial", "archives/partial", "etc/trusted.gpg.d",
                       "etc/preferences.d", "etc/apt.conf.d"):
            (self.top / folder).mkdir(parents=True, exist_ok=True)
        (self.top / "status").touch()
        proxy = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True,
                               check=False).stdout
        (self.top / "apt.conf").write_text("".join(re.findall(r"^Acquire::https?::.*\n", proxy,
                                                              re.M)) + f"""
APT::Architecture "{self.architecture}";
APT::Architectures {{ "{self.architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "{pwd.getpwuid(os.geteuid()).pw_name}";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::Etc "{self.top}/etc";
Dir::Etc::sourcelist "{self.top}/sources.list";
Dir::Etc::sourceparts "{self.top}/etc/sources.list.d";
Dir::Etc::trustedparts "{self.top}/etc/trusted.gpg.d";
Dir::State "{self.top}";
Dir::State::lists "{self.top}/lists";
Dir::State::status "{self.top}/status";
Dir::Cache "{self.top}";
Dir::Cache::archives "{self.top}/archives";
""")

    def _apt(self, tool: str, *arguments: str, cwd: Path | None = None) -> str:
        environment = {**os.environ, "APT_CONFIG": str(self.top / "apt.conf"), "LC_ALL": "C"}
        done = subprocess.run([tool, *arguments], env=environment, cwd=cwd, check=False,
                              capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            raise Failure(f"{tool} {arguments[0]} for Debian {self.release} {self.architecture}: "
                          + (errors[0] if errors else f"status {done.returncode}"),
                          "is the network there, and does apt-get update work?")
        return done.stdout

    def _update(self) -> None:
        self._apt("apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any")

    def _refresh(self) -> None:
        """Bring the lists up to date, at most once a day."""
        mark = self.top / "updated"
        if mark.exists() and time.time() - mark.stat().st_mtime < LISTS_AGE:
            return
        self._configure()
        sources = _sources_for(self.release)
        self._write_sources(sources)
        try:
            self._update()
        except Failure as failure:
            released = [s for s in sources if s.suite == self.release]
            self._write_sources(released)
            self._update()
            note(f"{failure}: going on with the release itself, without its updates")
        mark.touch()

    def closure(self, packages: list[str]) -> list[str]:
        """PACKAGES and everything they need."""
        with cache.lock(self.name):
            self._refresh()
            plan = self._apt("apt-get", "install", "--simulate", "-y", *packages)
        return re.findall(r"^Inst (\S+)", plan, re.M)

    def download(self, packages: list[str]) -> list[Path]:
        """Fetch .deb files, authenticated by apt, into the cache; return their paths."""
        with cache.lock(self.name):
            self._refresh()
            archives = self.top / "archives"
            wanted = []
            for line in self._apt("apt-get", "download", "--print-uris", *packages).splitlines():
                found = re.match(r"'[^']+' (\S+) (\d+)", line)
                if found:
                    wanted.append((archives / found.group(1), int(found.group(2))))
            if any(not p.exists() or p.stat().st_size != size for p, size in wanted):
                self._apt("apt-get", "download", "-q", *packages, cwd=archives)
            return [path for path, _ in wanted]

    def unpack(self, packages: list[str], into: Path) -> None:
        """Unpack packages below INTO, which keeps its own merged /usr."""
        for folder in ("bin", "sbin", "lib", "lib64"):
            (into / "usr" / folder).mkdir(parents=True, exist_ok=True)
            if not (into / folder).is_symlink():
                (into / folder).symlink_to(f"usr/{folder}")
        for deb in self.download(packages):
            try:
                unpack_deb(deb, into)
            except Failure:
                deb.unlink(missing_ok=True)
                raise

    def source(self, package: str, into: Path) -> list[Path]:
        """Fetch a source package's upstream tarball."""
        with cache.lock(self.name):
            self._refresh()
            self._apt("apt-get", "source", "--download-only", "--tar-only", "-q", package, cwd=into)
        return sorted(into.iterdir())


def unpack_deb(deb: Path, into: Path) -> None:
    """Unpack one .deb, following the links of a merged /usr instead of replacing them."""
    into.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as reader:
        done = subprocess.run(["tar", "-x", "--keep-directory-symlink", "--no-same-owner",
                               "-C", into], stdin=reader.stdout, check=False)
        assert reader.stdout is not None
        reader.stdout.close()
    if reader.returncode != 0 or done.returncode != 0:
        raise Failure(f"{deb.name} cannot be unpacked", "is the disk full? Else run this again")
