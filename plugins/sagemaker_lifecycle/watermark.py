"""Waiting in the time of the data: tasks that look again, by a job, whenever more deliveries have been ingested.

The triggerer waits; a worker is busy only to start the job and to read what it found. Everything a wait needs is in the stores, so a task that is
killed, cleared or retried goes on where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from include import settings as places
from include.lifecycle.as_of import iso, utc
from include.stores.layout import Layout
from sagemaker_lifecycle.jobs import DomainProcessingOperator
from sagemaker_lifecycle.tasks import object_store

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

_REPORTED_WITHIN = 1.0
_BLIND_SECONDS = 90.0


def watermark_of(domain: str) -> datetime | None:
    """The instant up to which the domain's deliveries are ingested; None before the first."""
    from include.stores.watermark import Watermark

    return Watermark(object_store(), Layout(domain)).get()


class WatermarkTrigger(BaseTrigger):
    """Fires when the domain's watermark is after ``after`` (None: as soon as there is one). A subclass may have more reasons to (``look``)."""

    def __init__(self, domain: str, after: str | None) -> None:
        super().__init__()
        self.domain = domain
        self.after = after

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (f"{type(self).__module__}.{type(self).__qualname__}", {"domain": self.domain, "after": self.after})

    def look(self) -> dict[str, Any] | None:
        """The event, with ``why`` to look again now; None: no reason yet. Called in a thread."""
        present = watermark_of(self.domain)
        if present is not None and (self.after is None or present > utc(self.after)):
            return {"why": f"deliveries up to {iso(present)} are ingested"}
        return None

    async def run(self) -> AsyncIterator[TriggerEvent]:
        # not within a second: Airflow fails a task that resumes before its executor has reported its first part
        wait = max(_REPORTED_WITHIN, places.current().poll_seconds)
        blind = 0.0
        while True:
            await asyncio.sleep(wait)
            try:
                found = await sync_to_async(self.look, thread_sensitive=False)()
                blind = 0.0
            except Exception as error:  # a service that is away for a moment must not end a wait of months
                self.log.warning("could not look, trying again: %r", error)
                blind += wait
                # the task looks by itself then: what is wrong shows, and after its tries the run ends as one that failed
                found = {"why": f"it could not be looked for {blind:.0f} s: {error!r}"} if blind > _BLIND_SECONDS else None
            if found:
                yield TriggerEvent(found)
                return


class WatchingOperator(DomainProcessingOperator):
    """Runs its job for each watermark until it has seen enough. Subclasses say what the job is asked (``ask``) and what follows from its answer
    (``conclude``). The instant up to which it has looked is the XCom ``looked_at``."""

    looked_at: str | None = None

    def __init__(self, **kwargs: Any) -> None:
        # a wait of months outlives many a worker and some hours without one of AWS's services, and each may cost tries
        patience = {
            "retries": 20,
            "retry_delay": timedelta(seconds=10),
            "retry_exponential_backoff": 2,
            "max_retry_delay": timedelta(minutes=15),
        }
        super().__init__(**{**patience, **kwargs})

    def ask(self, context: Context, watermark: datetime | None) -> dict[str, Any] | None:
        """The job's arguments; None: there is nothing to ask yet, or no more."""
        raise NotImplementedError

    def conclude(self, context: Context, found: dict[str, Any] | None) -> dict[str, Any] | None:
        """The task's result, or None: look again later. ``found``: the job's result; None where it was not asked."""
        raise NotImplementedError

    def trigger(self) -> BaseTrigger:
        """What waits until it is time to look again."""
        raise NotImplementedError

    def execute(self, context: Context) -> dict[str, Any]:
        return self.look_again(context)

    def look_again(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        if event:
            self.log.info("Looking again: %s.", event["why"])
        asked = self.ask(context, watermark_of(self.domain))
        if asked is None:
            return self._go_on(context, None)
        self.arguments = asked
        return self._go_on(context, super().execute(context))  # defers, unless an earlier try's job has ended

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._go_on(context, super().execute_complete(context, event))

    def _go_on(self, context: Context, found: dict[str, Any] | None) -> dict[str, Any]:
        result = self.conclude(context, found)
        if result is not None:
            return result
        context["ti"].xcom_push(key="looked_at", value=self.looked_at)
        self.defer(trigger=self.trigger(), method_name="look_again")
        raise AirflowException("unreachable: deferred")
