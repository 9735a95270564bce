"""A target's hosts: logged in to at their first use, and then known to all clients of the target."""

from __future__ import annotations

import functools
import os
import random
import time
import weakref
from collections.abc import Callable

from mlflow_agent_target.errors import AgentTargetError
from mlflow_agent_target.http.exchange import Transport
from mlflow_agent_target.http.options import RequestOptions
from mlflow_agent_target.http.retry import seconds_until_retry
from mlflow_agent_target.http.steps import Do, Sleep, Steps, perform
from mlflow_agent_target.target.asking import Asking, TookTooLongError
from mlflow_agent_target.target.login import Login, took_too_long
from mlflow_agent_target.target.settings import Backoff


class Hosts:
    """The ways to a target's hosts. Any number of threads may use it.

    Args:
        log_in: Finds the target's host and login.
        verify_tls: Whether servers' certificates are checked.
        is_workspace: Whether the target is a Databricks workspace, not an explicit base URL.
        name: What errors call the target.
    """

    def __init__(
        self, log_in: Callable[[], Login], verify_tls: bool, is_workspace: bool, name: str = "the target"
    ) -> None:
        self.verify_tls = verify_tls
        self.is_workspace = is_workspace
        self._log_in = log_in
        self._name = name
        self.disconnect()
        _all.add(self)

    def disconnect(self) -> None:
        """Forget all that is connected and known, without a word to the servers."""
        self._transport: Transport | None = None
        self._others: dict[str, Transport] = {}
        self._finding: Asking[None] = Asking(asks_anew=True)

    @property
    def transport(self) -> Transport:
        """The way to the target's host, found within the time that the environment gives a call.

        Raises:
            AgentTargetError: No usable login was found. Looked for again at the next use.
        """
        return perform(self.connect(RequestOptions()))

    def connect(self, options: RequestOptions) -> Steps[Transport]:
        """Return the way to the target's host, logging in where nobody has yet.

        Args:
            options: How the call is made that needs it: logging in is a part of it.

        Raises:
            AuthenticationError: No usable login was found.
            AgentTargetError: None was found for now.
        """
        limits, began, attempts = options.limits(), time.monotonic(), 0
        while self._transport is None:
            attempts += 1
            left = limits.total_timeout - (time.monotonic() - began)
            try:
                yield Do(functools.partial(self._find_within, min(limits.timeout, left)))
            except AgentTargetError as error:
                error.endpoint, error.attempts = options.endpoint, attempts
                wait = seconds_until_retry(
                    options.backoff or Backoff.read(),
                    error,
                    attempt=attempts,
                    remaining=limits.total_timeout - (time.monotonic() - began),
                    idempotent=False,
                    random=random.random(),  # noqa: S311 (spreads the waits, guards nothing)
                )
                if wait is None:
                    raise
                yield Sleep(wait, time.sleep)
        return self._transport

    def transport_to(self, url: str) -> Transport:
        """Return the way to another host that takes the target's login, such as a Databricks App's."""
        known = self._others.get(url)
        if known is None:  # setdefault: of threads that come together, all get the same
            known = self._others.setdefault(url, Transport(self.transport.login, self.verify_tls, base_url=url))
        return known

    def _find_within(self, seconds: float) -> None:
        try:
            self._finding.ask(self._find, seconds)
        except TookTooLongError:
            pass
        else:
            return
        raise took_too_long(self._name, seconds)

    def _find(self) -> None:
        if self._transport is None:
            self._transport = Transport(self._log_in(), self.verify_tls)


_all: weakref.WeakSet[Hosts] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # Two processes must not write to one socket.
    for hosts in list(_all):
        hosts.disconnect()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
