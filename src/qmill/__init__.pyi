"""The public names for editors and type checkers; `__init__.py` loads each on first use."""

from . import engines as engines
from .errors import (
    Empty as Empty,
    Full as Full,
    JobTimeout as JobTimeout,
    LaneError as LaneError,
    NotSupported as NotSupported,
    Poisoned as Poisoned,
    QmillError as QmillError,
    QueueGone as QueueGone,
    SerializationError as SerializationError,
    ShutDown as ShutDown,
    WorkerDied as WorkerDied,
)
from .job_queue.mapping import map as map, parallel as parallel
from .job_queue.queue import JobQueue as JobQueue
from .jobs.job import Job as Job
from .observe.frame import frame as frame
from .observe.plot import Plot as Plot
from .observe.trace import trace as trace
from .packing.shared_values import shared as shared
from .processes.launch import (
    get_start_method as get_start_method,
    set_start_method as set_start_method,
)
from .queues.api import Queue as Queue
from .queues.messages import END_MSG as END_MSG, Msg as Msg, Q as Q
from .queues.shared.core.info import core_info as core_info
from .queues.statistics import Statistics as Statistics
from .system.frozen import freeze_support as freeze_support
from .workers.api import (
    NUM_CPUS as NUM_CPUS,
    NUM_THREADS as NUM_THREADS,
    Worker as Worker,
    run as run,
    run_thread as run_thread,
)

__version__: str
