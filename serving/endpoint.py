"""What every application's HTTP side begins with: its pages, its health, its errors, and how Serve deploys it."""

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict
from ray import serve
from starlette.types import ASGIApp

from cluster.registry import Registry
from cluster.storage import Storage
from jobs.spec import RingSpec
from serving.access import BodyLimit, Guard
from serving.key_ring import KeyRing
from serving.keys import AccessLog
from serving.limiter import Limiter
from serving.limits import Stock
from serving.live_versions import LiveVersions
from serving.measures import Measures
from serving.outcomes import outcomes_since
from serving.predictions import PredictionLog
from serving.problem import RESPONSES, install
from serving.release_id import release_ids
from serving.shadow import started
from serving.shares import ShareLog
from serving.traces import send_to
from serving.usage import UsageLog
from serving.watched import Watched, follow

MAX_ONGOING_REQUESTS = 128
MAX_QUEUED_REQUESTS = 1024


class Body(BaseModel):
    """What a client sends: no unknown field, and no type but the one that is asked for."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


def as_text(given: Any) -> Any:
    """A whole number, which JSON may also write as 15.0, as its digits; all else as it is."""
    if isinstance(given, float) and given.is_integer():
        return str(int(given))
    return str(given) if isinstance(given, int) and not isinstance(given, bool) else given


class Health(BaseModel):
    """Which version answers."""

    status: str = "ok"
    version: str
    release: str
    """Another one means other settings or other code."""
    created_at: str
    metrics: dict[str, float]
    """On the held-out test rows."""


def endpoint(name: str, description: str, health: Health, max_body_bytes: int) -> FastAPI:
    """An application, as plain ASGI, that tells its health and every failure as a problem; the rest is the caller's."""
    application = FastAPIOffline(
        title=name,
        description=description,
        redoc_url=None,
        redirect_slashes=False,
        responses=RESPONSES,
    )
    application.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    install(application)

    @application.get("/health")
    async def tell() -> Health:
        """Which version answers, and its metrics."""
        return health

    return application


def serving_version(
    spec: RingSpec, storage: Storage, load: Callable[[RingSpec, Storage, str, str], ASGIApp]
) -> serve.Application:
    """The application of the version that `spec.serving.version` stands for now, and of what a release adds to it.

    Args:
        load: makes the application of a version, by its name, whose health names the release that is given last.

    Raises:
        RegistryError: no such version, changed since it was published, or answering unlike it did in training.
    """
    version, ids = Registry(storage, spec.name).resolve(spec.serving.version), release_ids(spec)
    tried = load(spec, storage, version, "")  # here a fault is told; in a replica it would be an endless restart
    takes_feedback = "/feedback" in {getattr(route, "path", "") for route in getattr(tried, "routes", ())}

    def application() -> ASGIApp:
        share_log = ShareLog(storage, spec.name)
        load_version = partial(_loaded, load, spec, storage, ids)
        shadow = partial(started, load_version, storage=storage, name=spec.name)
        keeps = spec.serving.keep_predictions and takes_feedback
        predictions = PredictionLog(storage, spec.name) if keeps else None
        if predictions:
            predictions.follow()
        outcomes = partial(outcomes_since, storage, spec.name)
        live = LiveVersions(load_version, share_log, version, shadow, predictions, outcomes)
        live.follow()
        if spec.serving.traces:
            send_to(spec.serving.traces, spec.name)
        measures = Measures(spec.name)
        follow(live.told, measures)
        app = live if spec.serving.access == "open" else guarded(live, storage, spec.name)
        return Watched(app, spec.name, measures, spec.serving.request_log)

    return deployed(spec, application)


def _loaded(
    load: Callable[[RingSpec, Storage, str, str], ASGIApp],
    spec: RingSpec,
    storage: Storage,
    ids: Callable[[str], str],
    version: str,
) -> ASGIApp:
    return load(spec, storage, version, ids(version))


def guarded(app: ASGIApp, storage: Storage, name: str) -> Guard:
    """An application that only those with a key reach.

    Raises:
        AccessError: the log of keys was tampered with.
    """
    keys, usage = KeyRing(AccessLog(storage, name)), UsageLog(storage, name)
    keys.follow()
    usage.follow()
    return Guard(app, keys, Stock(Limiter(storage, name).take), usage)


def deployed(spec: RingSpec, application: Callable[[], ASGIApp]) -> serve.Application:
    """What Serve runs: as many replicas as the spec says, each of which calls `application` once."""
    autoscale = spec.serving.autoscale
    replicas: dict[str, Any] = (
        {"autoscaling_config": autoscale.model_dump()} if autoscale else {"num_replicas": spec.serving.num_replicas}
    )
    as_deployment = serve.deployment(
        name=spec.name,
        **replicas,
        ray_actor_options={"num_cpus": spec.serving.num_cpus, "num_gpus": spec.serving.num_gpus},
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        max_queued_requests=MAX_QUEUED_REQUESTS,
    )
    bound: serve.Application = as_deployment(serve.ingress(application)()).bind()
    return bound
