"""Metrics and spans of the stores, through OpenTelemetry's API (the extra ``otel``).

Once in each process, after a worker was forked and the site's providers are set::

    from django_kvsessions.otel import instrument

    instrument()

- ``kvsessions.store.operations``, ``.failures`` and ``.conflicts`` count the calls of each store,
  those that it raised in, and the conditional ones that another request was faster than.
- ``kvsessions.store.operation.duration`` is a histogram in seconds, of the first call,
  and of one in 128; of all that take long: set-up, statistics, copies; and of all where tracing
  is on.
- ``kvsessions.session.retries`` and ``.rejected`` count saves that were tried again and records
  that do not verify; ``kvsessions.cleanup.runs``, ``.removed`` and ``.time`` tell of the automatic
  clean-up.
- Spans ``kvsessions.load`` and so on, inside of a span that is recorded.

The attributes are ``kvsessions.store`` (the alias) and ``kvsessions.operation``; no ids, no keys.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from time import perf_counter
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_kvsessions import counts
from django_kvsessions.stores import stores
from django_kvsessions.stores.base import Record, Store
from django_kvsessions.stores.paged import ColouredStore

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import CallbackOptions, Observation
except ImportError as error:
    raise ImproperlyConfigured(
        "django_kvsessions.otel needs opentelemetry-api: pip install django-kvsessions[otel]"
    ) from error

__all__ = ["instrument"]

SCOPE = "django_kvsessions"
#: Of how many calls one is timed, a power of two: to record how long a load took takes the SDK as
#: long as the load.
SAMPLED = 128
OPERATIONS = ("load", "create", "replace", "touch", "delete")
#: What takes long enough to be timed each time.
LONG = ("setup", "stats", "backup")
COUNTED = {
    "retries": ("kvsessions.session.retries", "{retry}", "Saves that were tried again."),
    "rejected": ("kvsessions.session.rejected", "{record}", "Records that do not verify."),
    "cleanups": ("kvsessions.cleanup.runs", "{run}", "Automatic clean-ups."),
    "cleaning": ("kvsessions.cleanup.time", "s", "How long they took together."),
    "cleaned": ("kvsessions.cleanup.removed", "{session}", "Expired sessions they removed."),
}


class _Operation:
    """One operation of one store: plain numbers, which the exporter's thread reads."""

    __slots__ = ("attributes", "calls", "conflicts", "failures", "is_long", "rest")

    def __init__(self, alias: str, name: str) -> None:
        self.attributes = {"kvsessions.store": alias, "kvsessions.operation": name}
        # Two threads at once may lose one.
        self.calls = self.conflicts = self.failures = 0
        self.is_long = name in LONG
        # Calls whose number has none of these bits are timed, and may be spans; so is the first.
        self.rest = 0


_operations: dict[tuple[str, str], _Operation] = {}
_instrumented = False


def instrument() -> None:
    """Count and time what the stores of this process do from now on; a second call does nothing."""
    global _instrumented  # noqa: PLW0603 (once in a process)
    if _instrumented:
        return
    _instrumented = True
    meter = metrics.get_meter(SCOPE)
    for name, unit, description in (
        ("calls", "{operation}", "Calls of the stores."),
        ("failures", "{operation}", "Calls that raised."),
        ("conflicts", "{operation}", "Conditional writes that another request was faster than."),
    ):
        public = "operations" if name == "calls" else name
        meter.create_observable_counter(
            f"kvsessions.store.{public}", [_reading(name)], unit, description
        )
    for name, (public, unit, description) in COUNTED.items():
        meter.create_observable_counter(public, [_counted(name)], unit, description)
    duration = meter.create_histogram(
        "kvsessions.store.operation.duration", "s", "How long calls of the stores took."
    )

    def opened(alias: str, store: Store) -> None:
        for name in (*OPERATIONS, *LONG):
            operation = _operations.setdefault((alias, name), _Operation(alias, name))
            observe: Callable[..., object] = _observed_load if name == "load" else _observed
            setattr(store, name, observe(getattr(store, name), operation, duration))
            # The async variants of others come to the sync ones, and are counted there.
            if isinstance(store, ColouredStore) and _overrides(store, f"a{name}"):
                method = getattr(store, f"a{name}")
                setattr(store, f"a{name}", _aobserved(method, operation, duration))

    stores.on_open.append(opened)
    for alias, store in stores.opened_by_alias().items():
        opened(alias, store)


def _overrides(store: Store, name: str) -> bool:
    return getattr(type(store), name) is not getattr(Store, name)


def _reading(name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(options: CallbackOptions) -> Iterable[Observation]:
        for operation in list(_operations.values()):
            yield Observation(getattr(operation, name), operation.attributes)

    return read


def _counted(name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(options: CallbackOptions) -> Iterable[Observation]:
        for (alias, what), number in list(counts.counted.items()):
            if what == name:
                yield Observation(number, {"kvsessions.store": alias})

    return read


@contextmanager
def _timed(operation: _Operation, duration: metrics.Histogram) -> Iterator[None]:
    """Record how long it takes, and a span of it where what is around it is recorded."""
    # Not asked each time, for it takes as long as all else here.
    is_traced = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    operation.rest = 0 if is_traced or operation.is_long else SAMPLED - 1
    span: AbstractContextManager[Any] = nullcontext()
    if is_traced and trace.get_current_span().is_recording():
        name = f"kvsessions.{operation.attributes['kvsessions.operation']}"
        tracer = trace.get_tracer(SCOPE)
        span = tracer.start_as_current_span(name, attributes=operation.attributes)
    started = perf_counter()
    with span:
        yield
    duration.record(perf_counter() - started, operation.attributes)


def _observed_load(
    method: Callable[[bytes], Record | None], operation: _Operation, duration: metrics.Histogram
) -> Callable[[bytes], Record | None]:
    # As below, but for what any number of arguments would cost: a load takes microseconds.
    @wraps(method)
    def observed(key: bytes) -> Record | None:
        operation.calls = calls = operation.calls + 1
        try:
            if calls & operation.rest:
                return method(key)
            with _timed(operation, duration):
                return method(key)
        except Exception:
            operation.failures += 1
            raise

    return observed


def _observed(
    method: Callable[..., Any], operation: _Operation, duration: metrics.Histogram
) -> Callable[..., Any]:
    @wraps(method)
    def observed(*args: Any, **kwargs: Any) -> Any:
        operation.calls = calls = operation.calls + 1
        try:
            if calls & operation.rest:
                result = method(*args, **kwargs)
            else:
                with _timed(operation, duration):
                    result = method(*args, **kwargs)
        except Exception:
            operation.failures += 1
            raise
        if result is False and kwargs.get("expected") is not None:
            operation.conflicts += 1
        return result

    return observed


def _aobserved(
    method: Callable[..., Awaitable[Any]], operation: _Operation, duration: metrics.Histogram
) -> Callable[..., Awaitable[Any]]:
    @wraps(method)
    async def observed(*args: Any, **kwargs: Any) -> Any:
        operation.calls = calls = operation.calls + 1
        try:
            if calls & operation.rest:
                result = await method(*args, **kwargs)
            else:
                with _timed(operation, duration):
                    result = await method(*args, **kwargs)
        except Exception:
            operation.failures += 1
            raise
        if result is False and kwargs.get("expected") is not None:
            operation.conflicts += 1
        return result

    return observed
