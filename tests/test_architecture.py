"""The shape of the house: imports run one way, DAG files import nothing heavy, names are what SageMaker takes."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# package → what of this project it may import
MAY_IMPORT = {
    "include/lifecycle": {"include.lifecycle"},
    "include/domains": {"include.domains", "include.lifecycle"},
    "include/stores": {"include.stores", "include.lifecycle"},
    "include/jobs": {"include.jobs", "include.stores", "include.domains", "include.lifecycle", "include.code_version"},
    "include/gateway": {"include.gateway", "include.stores", "include.domains", "include.lifecycle"},
    "include/local_sagemaker": {"include.local_sagemaker"},
    "plugins": {
        "sagemaker_lifecycle",
        "include.settings",
        "include.assets",
        "include.code_version",
        "include.stores",
        "include.domains",
        "include.lifecycle",
    },
    "dags": {"sagemaker_lifecycle", "include.settings", "include.assets", "include.domains", "include.lifecycle"},
}
NEVER_IMPORTS = {
    "include/lifecycle": {"airflow", "boto3", "botocore", "sagemaker"},
    "include/domains": {"airflow", "boto3", "botocore", "sagemaker"},
    "include/stores": {"airflow"},
    "include/jobs": {"airflow"},
    "include/gateway": {"airflow", "sagemaker"},
    "include/local_sagemaker": {"airflow", "sagemaker"},
}
OURS = ("include", "plugins", "dags", "sagemaker_lifecycle", "bench", "tests")


def imported_modules(path: Path) -> set[str]:
    """Every module the file imports, wherever in it, ``from a import b`` as ``a.b`` where that is a module of ours."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            if node.module == "include":
                found.discard("include")
                found.update(f"include.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package: str) -> None:
    allowed = MAY_IMPORT[package]
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for module in imported_modules(path)
        if module.split(".")[0] in OURS and not any(module == name or module.startswith(f"{name}.") for name in allowed)
    ]
    assert not wrong


@pytest.mark.parametrize("package", NEVER_IMPORTS)
def test_layers_stay_free_of_what_they_must_not_know(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for module in imported_modules(path)
        if module.split(".")[0] in NEVER_IMPORTS[package]
    ]
    assert not wrong


def test_the_jobs_image_has_what_its_code_imports() -> None:
    """The image of docker-compose's jobs and local SageMaker installs requirements-jobs.txt alone, and the tests run with more. Only the image
    with Spark has PySpark, and code that finds it absent says so."""
    locked = {line.split("==")[0].lower() for line in (ROOT / "requirements-jobs.txt").read_text().splitlines() if "==" in line}
    folders = ("jobs", "lifecycle", "stores", "domains", "gateway", "local_sagemaker")
    imported = {
        module.split(".")[0] for folder in folders for path in (ROOT / "include" / folder).rglob("*.py") for module in imported_modules(path)
    }
    foreign = {name for name in imported - sys.stdlib_module_names - {"include"} if not name.startswith("mypy_boto3") and name != "pyspark"}
    distributions = packages_distributions()
    assert "boto3" in foreign
    assert not {name for name in foreign if not {each.lower().replace("_", "-") for each in distributions[name]} & locked}


def test_no_stage_names_a_domain() -> None:
    names = [path.parent.name for path in (ROOT / "include" / "domains").glob("*/domain.py")]
    assert names
    code = [*(ROOT / "dags").glob("*.py"), *(ROOT / "plugins").rglob("*.py"), *(ROOT / "include" / "jobs").rglob("*.py")]
    code += [*(ROOT / "include" / "lifecycle").rglob("*.py"), *(ROOT / "include" / "stores").rglob("*.py")]
    wrong = []
    for path in code:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                wrong += [f"{path.relative_to(ROOT)}:{node.lineno} says {name}" for name in names if name in node.value]
    assert not wrong


def test_no_pickle_anywhere() -> None:
    code = [path for folder in ("include", "plugins", "dags", "bench") for path in (ROOT / folder).rglob("*.py")]
    assert not [str(path) for path in code if imported_modules(path) & {"pickle", "joblib", "dill", "cloudpickle"}]


def test_dag_files_import_nothing_heavy(tmp_path: Path) -> None:
    """pandas, Great Expectations, the SDK and the like are for jobs; a client of boto3 is for a running task."""
    heavy = ["pandas", "numpy", "great_expectations", "sagemaker", "xgboost", "duckdb", "pyarrow", "sklearn", "scipy", "sqlglot"]
    files = [str(path) for path in sorted((ROOT / "dags").glob("*.py"))]
    code = f"""
import runpy, sys
import airflow.sdk, airflow.providers.amazon.aws.operators.sagemaker, airflow.providers.standard.operators.hitl
before = set(sys.modules)
for path in {files!r}:
    runpy.run_path(path)
print(sorted(set({heavy!r}) & (set(sys.modules) - before)))
"""
    environment = {
        "AIRFLOW_HOME": str(tmp_path),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}",
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
    }
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().splitlines()[-1] == "[]"


def test_domain_files_are_standard_library_only(tmp_path: Path) -> None:
    code = """
import sys
before = set(sys.modules)
from include.domains import catalogue
found = catalogue()
assert found.domains and not found.failures, found
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(name for name in new if name != "include" and name not in sys.stdlib_module_names and not name.startswith("_")))
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_names_are_what_sagemaker_takes() -> None:
    from include.lifecycle.names import digest, job_name, sagemaker_name

    assert job_name("auto_claims", "build_dataset", digest({"a": 1}), 2) == "auto-claims-build-dataset-015abd7f5cc5-2"
    with pytest.raises(ValueError, match="is not a SageMaker name"):
        sagemaker_name("x" * 64)
    with pytest.raises(ValueError, match="is not a SageMaker name"):
        sagemaker_name("_")


def test_what_domains_share_is_part_of_every_domains_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Otherwise a job of other expectations would be taken for the same job, and adopted."""
    from include import code_version

    shutil.copytree(ROOT / "include", tmp_path / "include", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_version, "_ROOT", tmp_path / "include")
    version = code_version.code_version.__wrapped__
    before = version("auto_claims")
    (tmp_path / "include" / "domains" / "card_payments" / "model.py").write_text("")
    assert version("auto_claims") == before
    with (tmp_path / "include" / "domains" / "expecting.py").open("a") as file:
        file.write("\n# changed\n")
    assert version("auto_claims") != before
