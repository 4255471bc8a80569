# SPDX-License-Identifier: GPL-2.0-or-later
"""How the tree must look: formatting, lint, licence lines, the patch series."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import upstream
from say import Failure
from tally import Tally

TOP = upstream.TOP
OWN_C = re.compile(r"^(quasar|net-relay|tests|scripts)/.*\.[ch]$")
PYTHON = re.compile(r"\.py$")
NEEDS_LICENCE = re.compile(r"(\.[chS]|\.py|\.sh|meson\.build|meson\.options|\.rst|\.ld)$")
FORBIDDEN = {"a promise of later work": r"\b(TODO|FIXME|XXX)\b",
             "an absolute path of some machine": r"/(root|home|work)/[a-z]"}
SIZE_LIMIT = 1 << 18


def _files() -> list[Path]:
    """Every file of the tree that git tracks or would track."""
    done = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others",
                           "--exclude-standard"], cwd=TOP, capture_output=True, text=True,
                          check=False)
    if done.returncode != 0:
        raise Failure(f"git cannot list this checkout's files: {done.stderr.strip()}",
                      "the style suite needs a git checkout")
    return [Path(n) for n in sorted(set(done.stdout.splitlines())) if (TOP / n).is_file()]


def _first_line(path: Path) -> str:
    with open(TOP / path, "rb") as file:
        return file.readline(200).decode(errors="replace")


def _tool(tally: Tally, name: str, argv: list, files: list[Path]) -> None:
    if not files:
        return
    if not shutil.which(argv[0]):
        tally.record(name, f"{argv[0]} is not installed; run scripts/bootstrap")
        return
    done = subprocess.run([*argv, *files], cwd=TOP, capture_output=True, text=True, check=False)
    problem = (done.stdout + done.stderr)[:6000] if done.returncode else None
    tally.record(name, problem)


def _licences(files: list[Path]) -> str | None:
    missing = []
    for path in files:
        script = _first_line(path).startswith("#!")
        if (NEEDS_LICENCE.search(path.name) or script) and path.parts[0] != "LICENSES":
            with open(TOP / path, encoding="utf-8", errors="replace") as file:
                head = "".join(file.readline() for _ in range(3))
            if "SPDX-License-Identifier: GPL-2.0-or-later" not in head:
                missing.append(str(path))
    return f"no SPDX line in: {' '.join(missing)}" if missing else None


def _contents(files: list[Path]) -> str | None:
    faults = []
    for path in files:
        data = (TOP / path).read_bytes()
        if len(data) > SIZE_LIMIT:
            faults.append(f"{path}: {len(data)} bytes are too many for a source file")
        if b"\0" in data:
            faults.append(f"{path}: a binary file")
            continue
        if path.parts[0] == "LICENSES" or path.name == Path(__file__).name:
            continue
        for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
            removed = path.suffix == ".patch" and line.startswith("-")
            for what, pattern in FORBIDDEN.items():
                if re.search(pattern, line) and not removed:
                    faults.append(f"{path}:{number}: {what}: {line.strip()[:80]}")
            if line != line.rstrip() and path.suffix != ".patch":
                faults.append(f"{path}:{number}: white space at the end of the line")
    return "\n".join(faults) or None


def _python(files: list[Path]) -> str | None:
    faults = []
    for path in files:
        try:
            compile((TOP / path).read_text(), str(path), "exec")
        except SyntaxError as error:
            faults.append(str(error))
        long = [str(n) for n, line in enumerate((TOP / path).read_text().splitlines(), 1)
                if len(line) > 100]
        if long:
            faults.append(f"{path}: lines longer than 100: {', '.join(long)}")
    return "\n".join(faults) or None


def check(tally: Tally) -> None:
    files = _files()
    own_c = [f for f in files if OWN_C.match(str(f))]
    scripts = [f for f in files if not f.suffix or f.suffix in (".sh", ".py")]
    shell = [f for f in scripts if re.match(r"#!.*\b(ba)?sh\b", _first_line(f))]
    python = [f for f in scripts if f.suffix == ".py" or "python" in _first_line(f)]
    tally.record("style: licence lines", _licences(files))
    tally.record("style: contents", _contents(files))
    tally.record("style: python", _python(python))
    _tool(tally, "style: clang-format", ["clang-format", "--dry-run", "-Werror"], own_c)
    _tool(tally, "style: shellcheck", ["shellcheck"], shell)
    sources = [f for f in own_c if f.suffix == ".c" and f.parts[0] in ("quasar", "net-relay")]
    _tool(tally, "style: cppcheck",
          ["cppcheck", "--quiet", "--std=c11", "--error-exitcode=1", "--inline-suppr",
           "--enable=warning,performance,portability", "--library=gtk", "-I.", "-Iquasar",
           "--suppress=missingIncludeSystem", "--suppress=unknownMacro",
           "--suppress=nullPointerRedundantCheck",
           # GLib ends the program when memory is short
           "--suppress=nullPointerOutOfMemory", "--suppress=ctunullpointerOutOfMemory",
           "--suppress=normalCheckLevelMaxBranches"], sources)
    done = subprocess.run([sys.executable, TOP / "scripts" / "qemu-tree", "check"],
                          capture_output=True, text=True, check=False)
    print(done.stdout, end="", flush=True)
    tally.record("style: patch series", done.stderr if done.returncode else None)
