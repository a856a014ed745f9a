"""Rules and methods of one's own from a file, for the commands."""

import sys
from importlib import util
from pathlib import Path

__all__ = ["take_in"]


def take_in(file: str | Path) -> None:
    """Run a Python file once, so that its rules and methods are known by name; modules beside it
    may be imported. ValueError, which names the file, where it is none or fails."""
    path = Path(file).expanduser().resolve()
    name = f"qvid_own_{path.stem}"
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"--import {file}: give a Python file with rules, such as my_rules.py")
    if name in sys.modules:
        if Path(sys.modules[name].__file__) == path:
            return
        raise ValueError(f"--import {file}: another file of this name is imported, rename one")
    spec = util.spec_from_file_location(name, path)
    module = sys.modules[name] = util.module_from_spec(spec)
    sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as cause:  # of whatever kind the file's own is
        del sys.modules[name]
        raise ValueError(f"--import {file}: it fails ({type(cause).__name__}: {cause})") from cause
