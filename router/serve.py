"""The assembly: from a plan to a router that serves. Each part is made here, once, and handed to the others.

`serve` is the entry; the command line calls it. `_assemble` reads like the map of `router`: node, pool, sources of the
catalog, gateway, application, server.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from router import files, threads
from router.api.app import create_app
from router.api.predict import Variables
from router.ending import Ending
from router.engine.discovery import Engine
from router.errors import ConfigError, UnknownModel
from router.greeting import greeting
from router.hub import cache as hub
from router.logs import streams as logs
from router.memory import forecast as forecasts
from router.memory.forecast import Forecast
from router.models.catalog import Catalog
from router.node import platforms
from router.node.local import LocalNode
from router.node.whereabouts import Whereabouts
from router.page.chat_page import ChatPage, origins
from router.page.shelf import Shelf, default_folder
from router.plan import MIB, Machine, Plan
from router.pool.engine_lines import LEVELS, EngineLines
from router.pool.hub_models import HubModels
from router.pool.logs import EngineLogs
from router.pool.outlook import Outlook
from router.pool.pool import Pool
from router.proxy.budget import Budget
from router.proxy.gateway import Gateway
from router.records.access_lines import AccessLines
from router.reloader import Reloader
from router.server import listeners, openfiles
from router.server.activation import Activation
from router.server.admission import Admission, ClientLimits
from router.server.http_server import HttpServer, config_of
from router.server.life_cycle import LifeCycle
from router.server.supervisor import Supervisor
from router.settings import Settings
from router.telemetry import tracing as tracings
from router.wire.upstream import Upstream

log = logging.getLogger("router.serve")

# Called when the router listens, with its URLs and the function that ends it.
Announce = Callable[[Sequence[str], Callable[[], None]], None]

# New objects after which Python looks for cyclic garbage. A request makes some hundred objects, which are all freed at
# its end without that search; with Python's default of 700, many requests at once would spend much time in it.
GC_THRESHOLD_OBJECTS = 10_000
# Open files are reserved for this many models if --models-max sets no number.
ASSUMED_MODELS = 16


def serve(
    plan: Plan,
    activation: Activation = Activation(),  # noqa: B008 - immutable
    supervisor: Supervisor | None = None,
    *,
    announce: Announce | None = None,
) -> None:
    """Serve until a signal, then return. Raises ConfigError before `announce` is called.

    `activation` and `supervisor` are the service manager's, if one has started this process."""
    assert plan.engine is not None
    if obstacle := platforms.obstacle(platforms.facts()):
        raise ConfigError(obstacle)
    listeners.check_certificate(plan.settings.ssl_key_file, plan.settings.ssl_cert_file)
    with contextlib.ExitStack() as stack:
        s = plan.settings
        predict = Variables.read(os.environ)
        port = predict.port if predict else s.port
        sockets = [stack.enter_context(sock) for sock in activation.sockets()]
        life = LifeCycle(s.shutdown_delay, s.shutdown_grace, is_handed_over=bool(sockets) or s.reuse_port)
        sockets = sockets or listeners.bind(s.host, port, stack, reuse_port=s.reuse_port)
        parts = life, supervisor or Supervisor(), announce or _announce
        server = _assemble(plan, plan.engine, predict, sockets, *parts, stack)
        gc.freeze()  # what is there now stays, so no search for garbage needs to look at it
        gc.set_threshold(GC_THRESHOLD_OBJECTS)
        gc.enable()
        server.run(sockets)


def _assemble(
    plan: Plan,
    engine: Engine,
    predict: Variables | None,
    sockets: Sequence[socket.socket],
    life: LifeCycle,
    supervisor: Supervisor,
    announce: Announce,
    stack: contextlib.ExitStack,
) -> HttpServer:
    s = plan.settings
    # First what may be wrong, before there is anything to undo.
    sources = plan.sources()
    version, catalog = engine.version(), sources.read()
    _check_claude_map(s.claude_map, catalog)
    scheme = "https" if s.ssl_cert_file else "http"
    urls = [listeners.url_of(sock, scheme, s.api_prefix) for sock in sockets]

    machine = Machine.of_plan(plan, engine)
    limits, estimator = machine.limits, machine.estimator
    margins = limits.margins if plan.table.find("--fit-target") else {}
    node = stack.enter_context(contextlib.closing(LocalNode(engine, machine.devices, s.run_dir, margins=margins)))
    upstream = Upstream(read_timeout=float(s.timeout))
    pool = Pool(
        catalog,
        [node],
        limits,
        estimator.need,
        table=plan.table,
        load_timeout=s.models_load_timeout,
        ttl=s.models_ttl or None,
        min_loaded=s.models_min_loaded,
        health_timeout=s.models_health_timeout,
        upstream=upstream,
        logs=EngineLogs(EngineLines(LEVELS[s.log_engines]) if s.log_engines in LEVELS else None),
        learn=estimator.learn,
    )
    reloader = Reloader(pool, sources, estimator, s.models_preset if s.models_preset_watch else None)
    hub_models = HubModels(
        hub.cache_root(os.environ),
        sources,
        reloader.refresh,
        allowed=s.hub_allow,
        offline=s.offline,
        fallback=s.hub_fallback,
    )
    pool.downloads.source = hub_models
    gateway = Gateway(
        pool,
        upstream,
        autoload=s.models_autoload,
        body_limit=s.max_body_size * MIB,
        budget=Budget(s.models_queue_bytes * MIB),
        keepalive=s.stream_keepalive,
        generation_time=s.max_generation_time,
        claude_map=s.claude_map,
        task_header=s.task_header,
        hub_models=hub_models,
        load_args=s.load_args,
        created=sources.created,
        refresh=reloader.refresh,
    )

    if tracing := tracings.start(s.otel_endpoint, os.environ):
        stack.callback(tracing.close)
        gateway.records.tracer = tracing.begin
        gateway.records.subscribe(tracing.end)
    if s.log_requests != "off":
        AccessLines(s.log_requests).listen(gateway.records)

    async def forecast(outlook: Outlook) -> Forecast:
        return await threads.ESTIMATES.run(
            forecasts.forecast,
            estimator,
            outlook.spec,
            outlook.machine,
            running=outlook.running,
            ending=outlook.ending,
        )

    app = create_app(
        gateway,
        keys=s.api_key,
        admin_keys=s.admin_key,
        cors_origins=s.cors_origins,
        allowed_hosts=s.allowed_hosts,
        own_hosts=() if s.api_key else (*listeners.names_of_machine(), *s.host),
        reload=reloader.reload,
        forecast=forecast,
        engine=engine.kind,
        build=version,
        predict=predict,
        is_draining=lambda: life.is_draining,
        prefix=s.api_prefix,
        page=ChatPage(node, origins(engine), Shelf(default_folder(os.environ))) if s.ui else None,
    )
    max_connections = openfiles.max_connections(
        s.max_connections, openfiles.raise_limit(), s.models_max or ASSUMED_MODELS
    )
    admission = Admission(ClientLimits(max_connections, s.client_timeout))

    text, fields = greeting(s, engine.kind, version, len(catalog), urls)
    log.info("%s", text, extra={"fields": fields})
    machine.follow(s)
    for device in machine.devices.list():
        log.info("memory: %s, %.1f GiB", device.name, device.total / 2**30)
    for key, problem in machine.devices.problems.items():
        log.error("memory: %s is lost, and takes no model until it can be read: %s", key, problem)
    _warn_if_open_to_others(s, sockets)

    async def on_start(end: Callable[[], None]) -> None:
        await reloader.start()
        Whereabouts(
            tuple(listeners.url_of(sock, scheme) for sock in sockets),
            s.api_prefix,
            s.host,
            _absolute(s.ssl_cert_file),
            tuple(filter(None, map(_absolute, (s.admin_key_file, s.api_key_file)))),
        ).publish(node.run_directory)
        supervisor.ready(f"listens on {', '.join(urls)}")
        announce(urls, end)

    def on_hang_up() -> None:
        supervisor.reloading()
        reloader.on_hang_up().add_done_callback(lambda _: supervisor.reloaded())

    return HttpServer(
        config_of(app, admission, s.ssl_key_file, s.ssl_cert_file),
        admission,
        life,
        on_start=on_start,
        on_hang_up=on_hang_up,
        on_stage=Ending(life, pool, reloader, node, supervisor).enter,
        each_second=supervisor.extend,
    )


def _absolute(path: Path | None) -> str | None:
    return str(path.absolute()) if path and not files.is_inherited(path) else None


def _check_claude_map(pairs: Sequence[tuple[str, str]], catalog: Catalog) -> None:
    """Raises ConfigError for a pattern whose model does not exist."""
    for pattern, name in pairs:
        try:
            catalog.resolve(name)
        except UnknownModel as exc:
            raise ConfigError(f"--claude-map {pattern}={name}: {exc.message}") from exc


def _warn_if_open_to_others(s: Settings, sockets: Sequence[socket.socket]) -> None:
    places = listeners.reachable_places(sockets)
    if places and not s.api_key:
        what = "use its models" if s.admin_key else "use, load and unload its models"
        log.warning(
            "NO KEY IS SET, and %s can be reached from other machines: anyone who reaches it may %s. Set a key with "
            "--api-key or LLAMA_API_KEY, or listen on 127.0.0.1 alone with --host.",
            ", ".join(places),
            what,
        )


def _announce(urls: Sequence[str], end: Callable[[], None]) -> None:
    logs.say(f"llama-router is listening on {', '.join(urls)}")
