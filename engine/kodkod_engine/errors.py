"""Everything that can go wrong in the engine, with the exit code a command ends with.

    EngineError                      1   any fault of the engine
    ├── CheckpointError              4   the checkpoint cannot be used
    │   ├── CheckpointMissing        4   no such folder, no config, no index, no shard
    │   ├── UnknownArchitecture      4   a model family or option this engine does not have
    │   └── CheckpointCorrupt        4   truncated or unreadable file; missing, extra, wrongly shaped tensors
    ├── BackendUnavailable           4   a back end other than our own cannot be used
    │   ├── BackendMissing           4   its package is not installed
    │   └── ServerUnreachable        4   no server answers there, or it does not say what is needed
    ├── DiskFull                     1   no room for what is being written
    ├── FolderBusy                   1   another process writes to the folder
    ├── NotEnoughMemory              4   the model fits nowhere on this machine (placement)
    ├── RequestError                 2   the request cannot be served as it stands
    │   ├── PromptTooLong            2   prompt and answer do not fit the context or the cache
    │   └── TokenOutOfRange          2   a token id the vocabulary does not have
    ├── LedgerFault                  1   an operation the token ledger refuses (chat.ledger_state)
    ├── DeviceLost                   1   the GPU answers nothing more in this process
    └── EngineClosed                 1   the engine was closed, or its thread died

Each message is one line: the cause, then a way out. What goes wrong with one request after it was accepted (the KV
cache is full and nothing can be evicted, a constraint fails) ends its stream with the finish reason `error` and such a
line.
"""

from __future__ import annotations


class EngineError(Exception):
    """Any fault of the engine."""

    exit_code = 1


class CheckpointError(EngineError):
    """The checkpoint cannot be used."""

    exit_code = 4


class CheckpointMissing(CheckpointError):
    """No such folder, no config.json, no weight index, or a shard the index names is not there."""


class UnknownArchitecture(CheckpointError):
    """A model family, attention method or quantisation this engine does not have."""


class CheckpointCorrupt(CheckpointError):
    """A truncated or unreadable file, or tensors that are missing, extra or of the wrong shape."""


class BackendUnavailable(EngineError):
    """A back end other than our own cannot be used: it refused the model or its options."""

    exit_code = 4


class BackendMissing(BackendUnavailable):
    """The package of a back end is not installed; says which."""


class ServerUnreachable(BackendUnavailable):
    """No server answers at the address, or it does not say what is needed to work with it."""


class DiskFull(EngineError):
    """No room for what is being written; says how much is missing."""


class FolderBusy(EngineError):
    """Another process writes to the folder."""


class NotEnoughMemory(EngineError):
    """No placement of the model fits this machine; says by how much, and what would fit."""

    exit_code = 4


class RequestError(EngineError):
    """The request cannot be served as it stands."""

    exit_code = 2


class PromptTooLong(RequestError):
    """Prompt and requested answer do not fit the model's context or the KV cache."""


class TokenOutOfRange(RequestError):
    """A token id outside the vocabulary."""


class DeviceLost(EngineError):
    """The device answers nothing more in this process, which has to be started again."""


class EngineClosed(EngineError):
    """The engine was closed, or its thread died of the chained cause."""
