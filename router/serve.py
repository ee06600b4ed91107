"""The assembly: from settings to a router that serves. Every part is made here and handed to the others."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import logging
import os
import signal
import socket
import ssl
import stat
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from router import files, logs, settings, threads
from router.access.hosts import is_loopback
from router.api.app import create_app
from router.engine import discovery as engines
from router.engine import flags
from router.engine.discovery import Engine
from router.engine.flags import Arg, FlagTable
from router.errors import ConfigError, EngineError, RouterError, UnknownModel
from router.hub import cache as hub
from router.hub import fetch, snapshots
from router.hub.names import Name
from router.memory import forecast as forecasts
from router.memory.estimate import Estimator
from router.memory.footprints import Footprints, default_path
from router.memory.forecast import Forecast
from router.models.catalog import Catalog
from router.models.changes import Changes
from router.models.describe import describe
from router.models.sources import Sources
from router.models.spec import MODEL_FLAGS, SINGLE_MODEL_FLAGS, Info, ModelSpec
from router.node.devices import Devices
from router.node.local import LocalNode
from router.node.visibility import MASK_VARIABLES
from router.pool.depot import Depot
from router.pool.pool import Pool
from router.proxy.budget import Budget
from router.proxy.gateway import Gateway
from router.scheduling.limits import Limits
from router.scheduling.resources import Device
from router.server import openfiles
from router.server.admission import Admission, ClientLimits
from router.server.connection import ClientConnection
from router.server.tls import Handshake
from router.settings import Settings
from router.watch import changes
from router.wire.upstream import Upstream

log = logging.getLogger("router.serve")

MIB = 2**20
LARGEST_PEM = MIB  # bytes of a certificate's file or a key's
LANES = 4  # headers that are read side by side: one may lie on a disk that hangs
# Told the URLs that the router listens on, and what ends it.
Announce = Callable[[Sequence[str], Callable[[], None]], None]
# Clients that are still served when the router is told to end get this many seconds to finish.
GRACE = 5
# Then their children are ended, and what is left after as many seconds more is cut off without a word.
LAST_WORDS = 3
# Objects that are made before cyclic garbage is looked for. A request makes some hundred of them, all of which its end
# frees without that; at Python's 700 much time would go there with many requests at once.
YOUNG = 10_000
# Open files are kept back for as many models where --models-max says no number.
MANY_MODELS = 16
# Headers of models are read for this many seconds before the router says that it listens; a slow disk may go on.
FIRST_LOOK = 1.0
# Seconds that DNS has to tell this machine's full name.
NAME_PATIENCE = 1.0
# They are read in a thread for about as many seconds before it is asked whether to go on.
MOMENT = 0.02


@dataclass(frozen=True, slots=True)
class Plan:
    """What a command line means: the router's settings, llama-server's arguments for all children, and the engine whose
    flags these are."""

    settings: Settings
    common: tuple[Arg, ...]
    table: FlagTable
    engine: Engine | None

    def sources(self) -> Sources:
        s = self.settings
        foreign = _foreign_preset(s, self.common)
        common = [arg for arg in self.common if not (foreign and arg.flag.name == "--hf-repo")]
        return Sources(
            common,
            self.table,
            os.environ,
            preset=s.models_preset,
            foreign=foreign,
            models_dir=s.models_dir,
            default_name=s.models_default,
            offline=s.offline,
        )

    def catalog(self) -> Catalog:
        """Read the sources. Raises a ConfigError that says where."""
        return self.sources().read()


def read(argv: Sequence[str], environ: Mapping[str, str], *, needs_engine: bool = True) -> Plan:
    """Understand a command line by the flags of the engine that it names or that is found. Raises ConfigError."""
    engine = _engine(argv, environ) if needs_engine else None
    table = engine.table() if engine else known_flags(argv, environ)
    found, common = settings.parse(argv, environ, table)
    return Plan(found, flags.merge(_model_of_environment(environ, table, common), common), table, engine)


def _foreign_preset(s: Settings, common: Sequence[Arg]) -> Path | None:
    """That of the repository on the hub that stands in the place of a model, as in llama.cpp; None where it is one."""
    repo, root = flags.value_of(common, "--hf-repo"), hub.cache_root(os.environ)
    if not repo or s.models_preset or flags.value_of(common, "--hf-file") or hub.split(repo) is None:
        return None
    name, token = Name.parse(repo), flags.value_of(common, "--hf-token")
    if hub.find(root, repo) and not snapshots.preset(root, name):
        return None
    try:
        preset = asyncio.run(fetch.preset(name, root, token=token, offline=s.offline))
    except RouterError as exc:
        log.warning("whether %s holds a preset file is not known: %s", repo, exc.message)
        return None
    if preset:
        log.warning("the models are those that %s of %s tells: serve only what you trust", preset.name, repo)
    return preset


def _model_of_environment(environ: Mapping[str, str], table: FlagTable, common: Sequence[Arg]) -> list[Arg]:
    """What LLAMA_ARG_MODEL and its like say, unless the command line names a model; children do not get these."""
    is_named = any(arg.flag.name in MODEL_FLAGS for arg in common)
    wanted = SINGLE_MODEL_FLAGS - MODEL_FLAGS if is_named else SINGLE_MODEL_FLAGS
    said = flags.of_environment({name: word for name, word in environ.items() if word}, table)
    return [arg for arg in said if arg.flag.name in wanted]


def known_flags(argv: Sequence[str], environ: Mapping[str, str]) -> FlagTable:
    """Of the engine that would run; of the build that is known here where there is none. Raises EngineError when one
    that was named cannot be used."""
    try:
        return _engine(argv, environ).table()
    except EngineError:
        if _choice(argv, environ):
            raise
        return flags.default_table()


def _engine(argv: Sequence[str], environ: Mapping[str, str]) -> Engine:
    engine = engines.find(_choice(argv, environ), environ)
    engine.version()  # which only a llama-server answers
    return engine


def _choice(argv: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """The engine decides which flags exist, so its own flag is looked for before the others are read."""
    choice = environ.get("LLAMA_ROUTER_ENGINE")
    for token, following in itertools.zip_longest(argv, argv[1:]):
        if token == "--engine":
            choice = following
        elif token.startswith("--engine="):
            choice = token.partition("=")[2]
    return choice


def serve(plan: Plan, announce: Announce | None = None) -> None:
    """Serve until a signal; `announce` is called once the router listens. Raises ConfigError before it does."""
    assert plan.engine is not None
    _check_certificate(plan.settings.ssl_key_file, plan.settings.ssl_cert_file)
    with contextlib.ExitStack() as stack:
        sockets = _bind(plan.settings.host, plan.settings.port, stack)
        gc.set_threshold(YOUNG)
        server = _assemble(plan, plan.engine, sockets, announce or _say, stack)
        server.run(sockets)


def _assemble(
    plan: Plan, engine: Engine, sockets: Sequence[socket.socket], announce: Announce, stack: contextlib.ExitStack
) -> Server:
    s = plan.settings
    sources = plan.sources()
    version, catalog = engine.version(), sources.read()  # what can be wrong comes before what must be undone
    _check_map(s.claude_map, catalog)
    machine = Machine.look(plan, engine)
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
        gone=upstream.forget,
        learn=estimator.learn,
    )
    reloading = asyncio.Lock()  # what was read last is what counts

    async def renewed(read: Callable[[], Catalog]) -> Changes:
        async with reloading:
            changes = await pool.replace(await _described(await threads.CATALOG.run(read)))
        survey()
        return changes

    async def reload() -> Changes:
        return await renewed(sources.read)

    depot = Depot(
        hub.cache_root(os.environ),
        sources,
        lambda: renewed(sources.refresh),
        allowed=s.hub_allow,
        offline=s.offline,
        fallback=s.hub_fallback,
    )
    pool.hub = depot
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
        depot=depot,
        load_args=s.load_args,
    )

    def survey() -> None:
        pool.survey(lambda spec: estimator.need(spec, quick=True))

    async def forecast(spec: ModelSpec) -> Forecast:
        return await threads.ESTIMATES.run(forecasts.forecast, estimator, spec, await pool.snapshot())

    app = create_app(
        gateway,
        keys=s.api_key,
        admin_keys=s.admin_key,
        cors_origins=s.cors_origins,
        allowed_hosts=s.allowed_hosts,
        own_hosts=() if s.api_key else (*_names_of_machine(), *s.host),
        reload=reload,
        forecast=forecast,
        build=version,
    )
    most = openfiles.max_connections(s.max_connections, openfiles.raise_limit(), s.models_max or MANY_MODELS)
    admission = Admission(ClientLimits(most, s.client_timeout))
    config = uvicorn.Config(
        app,
        http=partial(ClientConnection, admission=admission),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE + LAST_WORDS,
        ssl_keyfile=s.ssl_key_file,
        ssl_certfile=s.ssl_cert_file,
    )
    scheme = "https" if s.ssl_cert_file else "http"
    log.info("engine: %s, %s", engine.kind, version)
    for device in machine.devices.list():
        log.info("memory: %s, %.1f GiB", device.name, device.total / 2**30)
    urls = [_url(scheme, sock) for sock in sockets]
    _warn_of_open_doors(s, sockets)
    watched = s.models_preset if s.models_preset_watch else None
    return Server(config, admission, pool, reload, survey, lambda end: announce(urls, end), watched)


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to plan with."""

    devices: Devices
    limits: Limits
    estimator: Estimator

    @classmethod
    def look(cls, plan: Plan, engine: Engine) -> Machine:
        devices = _devices(engine, plan.settings.models_memory_limit)
        listed = devices.list()
        limits = limits_of(plan.settings, listed)
        footprints = Footprints(default_path(os.environ))
        return cls(devices, limits, Estimator(engine, plan.table, listed, limits.margins, footprints, os.environ))


def _devices(engine: Engine, memory_limit: int | None) -> Devices:
    """This machine's, without GPUs if this engine cannot use them: then every model goes to RAM."""
    limit = memory_limit * MIB if memory_limit else None
    found = Devices(os.environ, limit)
    if len(found.list()) == 1 or engine.sees_gpus():
        return found
    log.warning("this engine sees no GPU: it was built for the CPU, or its GPU libraries are missing; using RAM alone")
    return Devices({**os.environ, **dict.fromkeys(MASK_VARIABLES, "")}, limit)


def limits_of(s: Settings, devices: Sequence[Device]) -> Limits:
    """`--models-memory-margin` is one number for all devices, or one for each in their order; the last one goes on."""
    margins = s.models_memory_margin
    by_device = {device.key: margins[min(index, len(margins) - 1)] * MIB for index, device in enumerate(devices)}
    return Limits(
        models_max=s.models_max,
        margins=by_device,
        queue_max=s.models_queue_max,
        queue_timeout=s.models_queue_timeout,
        drain_grace=s.models_drain_grace,
        task_grace=s.task_grace,
        finish_loads=s.models_finish_loads,
        downloads_max=s.hub_downloads,
    )


class Server(uvicorn.Server):
    """uvicorn's, which also says when it listens, reads the presets again on SIGHUP, and tells its clients of its end:
    at once those that wait or listen to the news, after a while those that are still served."""

    def __init__(
        self,
        config: uvicorn.Config,
        admission: Admission,
        pool: Pool,
        reload: Callable[[], Awaitable[object]],
        survey: Callable[[], None],
        listening: Callable[[Callable[[], None]], None],
        watched: Path | None = None,
    ) -> None:
        super().__init__(config)
        self._admission = admission
        self._pool, self._reload, self._survey, self._listening = pool, reload, survey, listening
        self._watched = watched

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if context := self.config.ssl:
            self.config.ssl = None  # the loop is not to know of it
            made: Any = self.config.http_protocol_class
            self.config.http_protocol_class = partial(Handshake, context, made, self._admission)  # type: ignore[assignment]
        await super().startup(sockets)
        if self.started:
            if hasattr(signal, "SIGHUP"):
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
            self._watching = asyncio.create_task(self._watch())
            self._describing = asyncio.create_task(self._describe())
            await asyncio.wait({self._describing}, timeout=FIRST_LOOK)
            self._listening(self.end)

    def end(self) -> None:
        """Let whoever is served finish, then return from `run`. May be called from another thread."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's: a signal that was obeyed is not raised again, so that the exit code is 0."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._describing.cancel()
        self._watching.cancel()
        self._pool.end()
        cut = asyncio.get_running_loop().call_later(GRACE, lambda: self._pool.end(force=True))
        await super().shutdown(sockets)
        cut.cancel()

    async def _describe(self) -> None:
        catalog = self._pool.catalog
        described = await _described(catalog)
        if self._pool.catalog is catalog:  # it was not read again meanwhile
            self._pool.catalog = described
        self._survey()

    def _hang_up(self) -> None:
        logs.reopen()
        self._rereading = asyncio.ensure_future(self._reread())

    async def _watch(self) -> None:
        if self._watched:
            async for _ in changes(self._watched):
                await self._reread()

    async def _reread(self) -> None:
        try:
            await self._reload()
        except ConfigError as exc:
            log.error("the presets are left as they are: %s", exc)


async def _described(catalog: Catalog) -> Catalog:
    """With what the models' headers say, read in threads, and not in one go, so that it can be cancelled: many headers
    on a cold disk take long, and on one that hangs they cost their own models alone."""
    models, left = list(catalog.models), iter(range(len(catalog.models)))
    lanes = [asyncio.create_task(_describe_next(models, left)) for _ in range(LANES)]
    try:
        await asyncio.gather(*lanes)
    finally:
        for lane in lanes:
            lane.cancel()
    for spec in models:
        if spec.info.problem:
            log.warning("%s cannot be served: %s", spec.name, spec.info.problem)
    return Catalog(models, catalog.default_name)


async def _describe_next(models: list[ModelSpec], left: Iterator[int]) -> None:
    """One lane: one model after the other, in place, as long as any are `left`."""
    for index in left:
        spec = models[index]
        what = f"The model file {spec.model_path} of {spec.name!r}"
        try:
            models[index] = await threads.FILES.run(describe, spec, patience=threads.PATIENCE, what=what)
        except threads.Unanswered as exc:
            models[index] = replace(spec, info=Info(problem=exc.message))


def _check_map(pairs: Sequence[tuple[str, str]], catalog: Catalog) -> None:
    for pattern, name in pairs:
        try:
            catalog.resolve(name)
        except UnknownModel as exc:
            raise ConfigError(f"--claude-map {pattern}={name}: {exc.message}") from exc


def _check_certificate(key: Path | None, certificate: Path | None) -> None:
    if key is None or certificate is None:
        return
    for flag, file in (("--ssl-key-file", key), ("--ssl-cert-file", certificate)):
        try:
            files.content(file, LARGEST_PEM)
        except OSError as exc:
            raise ConfigError(f"{flag} {file} cannot be read: {exc.strerror}.") from exc
    try:  # with a pass phrase, since else OpenSSL would ask the terminal for the one of an encrypted key
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as exc:
        raise ConfigError(
            f"{certificate} and {key} are no certificate and plain private key that belong together, as PEM "
            f"({exc.reason or 'unreadable'})."
        ) from exc


def _names_of_machine() -> list[str]:
    """What its pages may be called by. Its full name may be DNS's to tell, which is not waited for long."""
    name = socket.gethostname()
    full: list[str] = []
    asking = threading.Thread(target=lambda: full.append(socket.getfqdn(name)), daemon=True)
    asking.start()
    asking.join(NAME_PATIENCE)
    return [name, name.partition(".")[0], f"{name.partition('.')[0]}.local", *full]


def _warn_of_open_doors(s: Settings, sockets: Sequence[socket.socket]) -> None:
    inet = [sock for sock in sockets if sock.family in (socket.AF_INET, socket.AF_INET6)]
    places = [
        f"{host} port {port}" for host, port, *_ in (sock.getsockname() for sock in inet) if not is_loopback(host)
    ]
    if places and not s.api_key:
        what = "use its models" if s.admin_key else "use, load and unload its models"
        log.warning(
            "NO KEY IS SET, and %s can be reached from other machines: whoever reaches it may %s. Set a key with "
            "--api-key or LLAMA_API_KEY, or listen on 127.0.0.1 alone with --host.",
            ", ".join(places),
            what,
        )


def _bind(hosts: Sequence[str], port: int, stack: contextlib.ExitStack) -> list[socket.socket]:
    """Listening sockets, which `stack` closes. A port of 0 is chosen once and used on every host."""
    sockets: list[socket.socket] = []
    for host in hosts:
        if host.endswith(".sock"):
            sockets.append(stack.enter_context(_bind_path(Path(host))))
            stack.callback(Path(host).unlink, missing_ok=True)
        else:
            sockets.append(stack.enter_context(_bind_address(host, port)))
            port = port or sockets[-1].getsockname()[1]
    return sockets


def _bind_address(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.create_server(address[:2], family=family, backlog=2048, reuse_port=False)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            why = "another program uses it; stop that, or choose another one with --port"
        else:
            why = f"{str(exc.strerror).partition(' (')[0]}; check --host and --port"  # the rest says the address again
        raise ConfigError(f"Cannot listen on {host} port {port}: {why}.") from exc
    sock.setblocking(False)
    return sock


def _bind_path(path: Path) -> socket.socket:
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise ConfigError(f"Cannot listen on {path}: another program listens there.")
            path.unlink()
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        sock.listen(2048)
    except OSError as exc:
        raise ConfigError(f"Cannot listen on {path}: {exc.strerror or exc}.") from exc
    sock.setblocking(False)
    return sock


def _url(scheme: str, sock: socket.socket) -> str:
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _say(urls: Sequence[str], end: Callable[[], None]) -> None:
    logs.say(f"llama-router is listening on {', '.join(urls)}")
