"""What the entry point leaves where SageMaker looks for the reason of a failure, of which it keeps one kilobyte."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.jobs import ingest
from include.jobs.__main__ import main
from include.jobs.context import JobError


@pytest.mark.parametrize("text", ["short", "a" * 5000, "é" * 5000, "aé" * 3000, "表" * 3000, "x表" * 3000, "🙂" * 900, "file \udcff"])
def test_a_reason_in_any_script_fits_and_ends_with_a_whole_character(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise JobError(text)

    monkeypatch.setattr(ingest, "run", refuse)
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    (tmp_path / "output").mkdir()
    assert main(["ingest", "--domain", "auto_claims", "--manifest", "s3://bucket/manifest.json"]) == 2
    for name in ("failure", "message"):
        body = (tmp_path / "output" / name).read_bytes()
        assert len(body) <= 1000
        kept = body.decode()
        said = f"refused: {text}".replace("\udcff", "?")
        assert said.startswith(kept)
        assert len(kept) == len(said) or len(body) > 1000 - 4
