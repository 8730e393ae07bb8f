"""Tasks in; what became of each, done by the engines of a Ray cluster, one an actor, out.

The cluster's machines must see the archive and the results under the same paths, and have this package installed.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kernels.findings import ConfigError

from .manifest import Task
from .score import Done, Work, Worker

_PATIENCE_S = 5.0


class RayCrew:
    """An actor a worker, started when it is first needed."""

    def __init__(self, ray: Any, work: Work, most: int) -> None:
        self._ray = ray
        self._actor = ray.remote(num_cpus=1)(Worker)
        self._work = ray.put(work)
        self._most = most
        self._idle: list[Any] = []
        self._under_way: dict[Any, tuple[Task, Any]] = {}

    @property
    def busy(self) -> int:
        return len(self._under_way)

    def begin(self, task: Task) -> bool:
        if not self._idle and self.busy == self._most:
            return False
        actor = self._idle.pop() if self._idle else self._actor.remote(self._work)
        self._under_way[actor.run.remote(task)] = task, actor
        return True

    def wait(self) -> tuple[Task, Done | None]:
        (ended, *_), _ = self._ray.wait(list(self._under_way), num_returns=1)
        task, actor = self._under_way.pop(ended)
        try:
            done: Done = self._ray.get(ended)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayActorError:
            return task, None
        self._idle.append(actor)
        return task, done


@contextmanager
def ray_crew(work: Work, jobs: int, address: str | None) -> Iterator[RayCrew]:
    """As many actors as `jobs` (0: as there are CPUs), on the cluster at `address` or on this machine. Raises ConfigError without one."""
    ray = _library()
    with _connected(ray, jobs, address):
        yield RayCrew(ray, work, jobs or int(ray.cluster_resources().get("CPU", 1)))


@contextmanager
def _connected(ray: Any, jobs: int, address: str | None) -> Iterator[None]:
    try:
        if address:
            _reach(address)
            ray.init(address=address, logging_level="ERROR", log_to_driver=False)
        else:
            ray.init(address="local", num_cpus=jobs or None, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no Ray cluster at {address} ({error}); start one with `ray start --head`, or leave --address out") from error
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()


def _library() -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "--engine ray needs the package ray: pip install 'cardiogloss[cluster]'; without it --jobs uses all cores"
        ) from None
    return ray
