"""Where things lie in the bucket: one prefix a domain, the same words in every domain.

::

    <domain>/raw/<table>/dt=<delivery day>/<file>      landed files, never changed
             curated/<table>/dt=<event day>/           checked rows (reference tables: dt=<delivery day>)
             quarantine/<table>/dt=<delivery day>/     refused rows and files, each with its reason
             labels/dt=<event day>/                    event, label, when it became known
             index/<prefix>.parquet                    which keys lie in which of the objects above; a cache
             features/dt=<event day>/                  one row per event
             datasets/<id>/                            train, validation, test as of an instant
             models/<job>/output/model.tar.gz          written by SageMaker
             captured/<endpoint configuration>/        requests and answers of the endpoint, as SageMaker captures them
             predictions/endpoint/dt=<event day>/      one row per event that the endpoint scored
             predictions/collected/dt=<capture day>/   which files of captured/ are in predictions/endpoint/
             predictions/replayed/<endpoint>/          which event days were replayed through an endpoint
             predictions/batch/dt=<event day>/         one row per event that a batch scored
             review/dt=<event day>/                    the day's review queue, for analysts
             review/decisions/                         what they decided, and who, as it was recorded
             monitoring/windows/dt=<last day>/         what each day's window was found to be, by model (of backfills: windows/history/)
             monitoring/alarms/                        one object an alarm, with its evidence
             monitoring/handled/                       what became of an alarm
             watermark.json                            the instant up to which deliveries were ingested
             decisions/dt=<day>/                       what gateways decided, as they shipped it: JSON lines, gzipped (wall clock's day)
             outcomes/dt=<day>/                        what they were told became of it, likewise
             experiments/<id>/                         a rollout: its state by version, its evidence, its page
             reports/<stage>/<id>/                     what a run found: results, Data Docs, evaluation
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class Layout:
    domain: str

    def landing(self, table: str, delivered: date, file: str = "") -> str:
        return f"{self.domain}/raw/{table}/dt={delivered.isoformat()}/{file}"

    def curated(self, table: str) -> str:
        return f"{self.domain}/curated/{table}"

    def quarantine(self, table: str, delivered: date, file: str = "") -> str:
        return f"{self.domain}/quarantine/{table}/dt={delivered.isoformat()}/{file}"

    @property
    def labels(self) -> str:
        return f"{self.domain}/labels"

    def key_index(self, prefix: str) -> str:
        """Of the objects under ``prefix``, one of the domain's."""
        return f"{self.domain}/index/{prefix.removeprefix(f'{self.domain}/').rstrip('/')}.parquet"

    @property
    def features(self) -> str:
        return f"{self.domain}/features"

    def dataset(self, identity: str) -> str:
        return f"{self.domain}/datasets/{identity}/"

    @property
    def models(self) -> str:
        return f"{self.domain}/models/"

    def captured(self, configuration: str) -> str:
        """Of one endpoint configuration."""
        return f"{self.domain}/captured/{configuration}"

    @property
    def endpoint_predictions(self) -> str:
        return f"{self.domain}/predictions/endpoint"

    @property
    def collected_captures(self) -> str:
        return f"{self.domain}/predictions/collected"

    def replayed(self, endpoint: str, configuration: str, day: date) -> str:
        return f"{self.domain}/predictions/replayed/{endpoint}/{configuration}/dt={day.isoformat()}.json"

    @property
    def batch_predictions(self) -> str:
        return f"{self.domain}/predictions/batch"

    def review_queue(self, day: date, file: str = "") -> str:
        return f"{self.domain}/review/dt={day.isoformat()}/{file}"

    def decisions(self, file: str) -> str:
        return f"{self.domain}/review/decisions/{file}"

    @property
    def monitored_windows(self) -> str:
        return f"{self.domain}/monitoring/windows"

    def alarm(self, name: str = "") -> str:
        return f"{self.domain}/monitoring/alarms/{name}"

    def handled_alarm(self, name: str = "") -> str:
        return f"{self.domain}/monitoring/handled/{name}"

    @property
    def watermark(self) -> str:
        return f"{self.domain}/watermark.json"

    def shipped_decisions(self, day: date | None = None, file: str = "") -> str:
        """Of a day; without one, the prefix of all days."""
        return f"{self.domain}/decisions/dt=" + (f"{day.isoformat()}/{file}" if day else "")

    def shipped_outcomes(self, day: date | None = None, file: str = "") -> str:
        return f"{self.domain}/outcomes/dt=" + (f"{day.isoformat()}/{file}" if day else "")

    def experiment(self, identity: str, file: str = "") -> str:
        return f"{self.domain}/experiments/{identity}/{file}"

    def report(self, stage: str, identity: str, file: str = "") -> str:
        return f"{self.domain}/reports/{stage}/{identity}/{file}"
