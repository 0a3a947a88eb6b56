"""What all List* operations share: filters, sorting and pages.

A NextToken names the last item that was returned, not a position, so that a page neither repeats nor skips items when
others are created or deleted meanwhile.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable
from typing import Any

from .errors import validation
from .store import Document

_PAGE = 10  # MaxResults when the request has none


def page(
    request: Document,
    items: Iterable[Document],
    *,
    name: str,
    status: str | None = None,
    descending: bool = False,
    matches: Callable[[Document], bool] = lambda _: True,
) -> tuple[list[Document], str | None]:
    """One page of ``items`` for a List* request, and the token of the next, if there is one.

    ``name`` and ``status`` are the members that NameContains, StatusEquals and SortBy refer to; ``descending`` is the
    operation's documented default order.
    """
    by = request.get("SortBy", "CreationTime")
    member = {"Name": name, "Status": status or name, "CreationTime": "CreationTime"}[by]
    backwards = request.get("SortOrder", "Descending" if descending else "Ascending") == "Descending"

    def place(item: Document) -> tuple[Any, str]:
        return item[member], item[name]

    found = sorted((item for item in items if _passes(request, item, name, status) and matches(item)), key=place, reverse=backwards)
    if "NextToken" in request:
        last = _decode(request["NextToken"], by)
        found = [item for item in found if (place(item) < last if backwards else place(item) > last)]
    size = request.get("MaxResults", _PAGE)
    token = _encode(by, place(found[size - 1])) if len(found) > size else None
    return found[:size], token


def answer(member: str, found: tuple[list[Document], str | None], summary: Iterable[str]) -> Document:
    """The List* response: the summary members of each item, and NextToken."""
    items, token = found
    wanted = list(summary)
    response: Document = {member: [{key: item[key] for key in wanted if key in item} for item in items]}
    if token is not None:
        response["NextToken"] = token
    return response


def _passes(request: Document, item: Document, name: str, status: str | None) -> bool:
    created, modified = item["CreationTime"], item.get("LastModifiedTime", item["CreationTime"])
    return (
        request.get("NameContains", "").lower() in item[name].lower()
        and (status is None or request.get("StatusEquals", item.get(status)) == item.get(status))
        and created > request.get("CreationTimeAfter", float("-inf"))
        and created < request.get("CreationTimeBefore", float("inf"))
        and modified > request.get("LastModifiedTimeAfter", float("-inf"))
        and modified < request.get("LastModifiedTimeBefore", float("inf"))
    )


def _encode(by: str, place: tuple[Any, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps([by, *place]).encode()).decode()


def _decode(token: str, by: str) -> tuple[Any, str]:
    try:
        found = json.loads(base64.urlsafe_b64decode(token))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise validation(f"Invalid NextToken {token!r}.") from error
    match found:
        case [str(sorted_by), float() | str() as value, str(name)] if isinstance(value, float) == (sorted_by == "CreationTime"):
            if sorted_by != by:
                raise validation("The NextToken belongs to a request with another SortBy.")
            return value, name
    raise validation(f"Invalid NextToken {token!r}.")
