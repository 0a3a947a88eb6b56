"""Every folder here is a fraud problem. A folder that does not load is reported by name and takes no other with it."""

from __future__ import annotations

import functools
import importlib
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from include.lifecycle.domain import Domain, DomainError

ROOT = Path(__file__).parent


@dataclass(frozen=True)
class Catalogue:
    """The domains that loaded, by name, and why the others did not (folder name → traceback)."""

    domains: dict[str, Domain]
    failures: dict[str, str]


@functools.cache
def catalogue() -> Catalogue:
    """Scans ``include/domains``. Imports each folder's ``domain.py`` only, which is standard library: cheap while DAGs are parsed."""
    domains: dict[str, Domain] = {}
    failures: dict[str, str] = {}
    for folder in sorted(path.name for path in ROOT.iterdir() if (path / "domain.py").is_file()):
        try:
            domain = importlib.import_module(f"{__name__}.{folder}.domain").DOMAIN
            if not isinstance(domain, Domain) or domain.name != folder:
                raise DomainError(f"include/domains/{folder}/domain.py: DOMAIN must be a Domain named {folder!r}")
            domains[folder] = domain
        except Exception:  # whatever a user's file raises is that folder's failure, and nobody else's
            failures[folder] = traceback.format_exc()
    return Catalogue(domains, failures)


def get(name: str) -> Domain:
    """The domain of that name. LookupError says which there are, or why this one did not load."""
    found = catalogue()
    if name in found.domains:
        return found.domains[name]
    if name in found.failures:
        raise LookupError(f"domain {name!r} does not load:\n{found.failures[name]}")
    raise LookupError(f"no domain {name!r} under include/domains; there are: {', '.join(found.domains) or 'none'}")


def part(name: str, module: str) -> ModuleType:
    """A domain's heavier file: ``expectations``, ``model`` or ``simulator``. Imported in jobs and commands, never while DAGs are parsed."""
    get(name)
    return importlib.import_module(f"{__name__}.{name}.{module}")


def features_sql(name: str) -> str:
    """The text of the domain's ``features.sql``."""
    get(name)
    return (ROOT / name / "features.sql").read_text(encoding="utf-8")
