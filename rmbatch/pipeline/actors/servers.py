"""Servers of chat models on the job's own cluster, each a process below an actor, and the way for clients to find them.

An actor has its place on the cluster (GPUs, CPUs) and runs one server there (``rmbatch/pipeline/model_server.py``). A
server that dies or hangs is started again by its actor, at the same address; an actor that dies is started again by
Ray, perhaps on another node. Clients look every second where the servers are (``ActorDirectory``). All end with the
job: an actor ends with its driver, and a server with its actor.

Ray Serve would do less: its applications outlive the driver that started them, so a killed job would leave engines
behind; a proxy would stand between client and engine; and ``ray[llm]`` pins another vLLM than reward models use.

    servers = Servers(say=print, may_grow=False)
    servers.start({"judge": spec}, models={})            # they load while the job plans its rows
    servers.await_ready()                                # UserError for a model that cannot be served
    servers.directory(spec)                              # for ChatActor
    servers.close()
"""

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError

from connectors.errors import JobError, UserError
from rmbatch.chat.serve import Places, ServeSpec
from rmbatch.chat.spec import ChatSpec
from rmbatch.pipeline.actors.pools import Replicated, count_replicas
from rmbatch.pipeline.model_server import CLOSE_S, ModelServer, ServerState

LOOK_S = 0.5
"""How long a client waits for the actors when it looks where the servers are."""
POLL_S, JOIN_S = 0.25, 5.0


class ServerActor:
    """One server of a model; a Ray actor whose calls run in threads."""

    def __init__(self, spec: ServeSpec, name: str, api_key: str) -> None:
        self._server = ModelServer(spec, name, ray.util.get_node_ip_address(), api_key)
        self._server.start()

    def state(self) -> ServerState:
        """What is known of the server."""
        return self._server.state

    def close(self) -> None:
        """End it in good order."""
        self._server.close()


@dataclass
class ActorDirectory:
    """Where the servers of a model are. Travels by names, for Ray warns of handles among what restarts an actor."""

    names: tuple[str, ...]
    api_key: str
    _asking: dict[str, "asyncio.Task[ServerState]"] = field(default_factory=dict)
    _urls: dict[str, str | None] = field(default_factory=dict)
    _failures: dict[str, str] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorDirectory, (self.names, self.api_key)

    async def look(self) -> Places:
        """As in ``Directory``. A server whose actor says nothing (it waits for its place, or its node is busy) is where
        it was."""
        for name in self.names:
            if name not in self._asking:
                self._asking[name] = asyncio.create_task(_ask(name))
        await asyncio.wait(self._asking.values(), timeout=LOOK_S)
        for name, asking in list(self._asking.items()):
            if asking.done():
                self._note(name, self._asking.pop(name))
        urls = tuple(self._urls.get(name) for name in self.names)
        all_failed = all(name in self._failures for name in self.names)
        return Places(urls, self._failures[self.names[-1]] if all_failed else "")

    def _note(self, name: str, asked: "asyncio.Task[ServerState]") -> None:
        try:
            state = asked.result()
        except (ActorDiedError, ValueError):  # for good: the job has ended it
            state = ServerState(failure="the job has ended its servers")
        except RayError:  # it begins anew
            state = ServerState()
        self._urls[name] = state.url
        if state.failure:
            self._failures[name] = state.failure
        else:
            self._failures.pop(name, None)


async def _ask(name: str) -> ServerState:
    actor = await asyncio.to_thread(ray.get_actor, name)
    state: ServerState = await actor.state.remote()
    return state


@dataclass
class _Served:
    """The servers of one model."""

    asker: str
    spec: ChatSpec
    actors: list[Any]
    directory: ActorDirectory
    states: dict[int, ServerState] = field(default_factory=dict)
    asked: dict[int, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @property
    def serve(self) -> ServeSpec:
        assert self.spec.serve is not None
        return self.spec.serve


class Servers:
    """All servers of a job, as its driver sees them."""

    def __init__(self, *, say: Callable[[str], None], may_grow: bool) -> None:
        """``may_grow``: the cluster may get nodes that are not there yet."""
        self._say, self._may_grow = say, may_grow
        self._served: dict[str, _Served] = {}
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None

    @property
    def taken(self) -> dict[str, float]:
        """What they take of the cluster's resources."""
        found = {"CPU": 0.0, "GPU": 0.0}
        for each in self._served.values():
            found["CPU"] += each.serve.cpus * len(each.actors)
            found["GPU"] += each.serve.gpus * len(each.actors)
        return found

    def start(
        self, askers: Mapping[str, ChatSpec], models: Mapping[str, Replicated], reserved_cpus: float = 0.0
    ) -> None:
        """Start the servers that these askers want and that are not there yet; as many as fit beside ``models``.

        ``reserved_cpus``: what others will need. Raises UserError where the cluster has no room for the fewest.
        """
        new = {
            spec.serve_key: (name, spec)
            for name, spec in askers.items()
            if spec.serve is not None and spec.serve_key not in self._served
        }
        if not new:
            return
        there = dict(ray.cluster_resources())
        there = {kind: there.get(kind, 0.0) - self.taken[kind] for kind in self.taken}
        there["CPU"] -= reserved_cpus
        wanted: dict[str, Replicated] = {name: spec.serve for name, spec in new.values() if spec.serve is not None}
        counts = count_replicas({**models, **wanted}, there, self._may_grow)
        for key, (name, spec) in new.items():
            self._served[key] = self._start(name, spec, counts[name])
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="servers", daemon=True)
            self._watcher.start()

    def await_ready(self) -> None:
        """Until each model has a server that serves; the others join when they have loaded.

        Raises UserError for a model that cannot be served, JobError where none came up in time.
        """
        for each in self._served.values():
            self._await_first(each)

    def directory(self, spec: ChatSpec) -> ActorDirectory | None:
        """Where the servers of a spec are; None for a spec that asks others."""
        return self._served[spec.serve_key].directory if spec.serve is not None else None

    def close(self) -> None:
        """End all servers."""
        self._ended.set()
        if self._watcher is not None:
            self._watcher.join(JOIN_S)
        actors = [actor for each in self._served.values() for actor in each.actors]
        placed = [each.actors[place] for each in self._served.values() for place in each.states]
        with suppress(RayError):
            closing = [actor.close.remote() for actor in placed]
            if closing:
                ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
        for actor in actors:
            ray.kill(actor)
        self._served.clear()

    def _start(self, name: str, spec: ChatSpec, num_replicas: int) -> _Served:
        assert spec.serve is not None
        job, api_key = secrets.token_hex(6), secrets.token_urlsafe(24)
        names = tuple(f"rmbatch-server-{job}-{place}" for place in range(num_replicas))
        actors = [
            ray.remote(ServerActor)
            .options(
                name=each,
                num_cpus=spec.serve.cpus,
                num_gpus=spec.serve.gpus,
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=16,
            )
            .remote(spec.serve, spec.model, api_key)
            for each in names
        ]
        how_many = f"{num_replicas} server{'s' * (num_replicas > 1)}"
        self._say(f"{name}: loading {spec.serve.model} on the cluster, {how_many}")
        return _Served(name, spec, actors, ActorDirectory(names, api_key))

    def _await_first(self, served: _Served) -> None:
        limit = served.serve.startup_timeout_s
        while not any(state.url for state in served.states.values()):
            failures = [state.failure for state in served.states.values() if state.failure]
            if len(failures) == len(served.actors):
                raise UserError(f"model {served.serve.model!r} (for {served.asker}) cannot be served: {failures[0]}")
            if time.monotonic() - served.began > limit + POLL_S:
                placed = len(served.states)
                raise JobError(
                    f"none of {len(served.actors)} servers of {served.serve.model!r} (for {served.asker}) was up "
                    f"after {limit:.0f} s (startup_timeout_s); {placed} had a place on the cluster"
                )
            time.sleep(POLL_S)

    def _watch(self) -> None:
        """Look how all servers are, and say what changes, until they are closed."""
        while not self._ended.wait(POLL_S):
            for served in list(self._served.values()):
                for place, actor in enumerate(served.actors):
                    try:
                        self._look(served, place, actor)
                    except ActorDiedError as died:  # for good
                        served.asked.pop(place, None)
                        served.states[place] = ServerState(
                            None, f"its actor died: {str(died).strip().splitlines()[-1]}"
                        )
                    except RayError:  # it begins anew, or the job ends
                        served.states[place] = ServerState()
                        served.asked.pop(place, None)

    def _look(self, served: _Served, place: int, actor: Any) -> None:
        if place not in served.asked:
            served.asked[place] = actor.state.remote()
        ready, _ = ray.wait([served.asked[place]], timeout=0)
        if not ready:
            return
        before, state = served.states.get(place, ServerState()), ray.get(served.asked.pop(place))
        served.states[place] = state
        if state.num_deaths and state.last_words and state != before and state.num_deaths != before.num_deaths:
            again = "it is not started again" if state.failure else "it is started again"
            self._say(f"{served.asker}: server {place + 1} of {served.serve.model} {state.last_words}; {again}")
        elif state.url and not before.url:
            self._say(
                f"{served.asker}: server {place + 1} of {len(served.actors)} is up after "
                f"{time.monotonic() - served.began:.0f} s"
            )
