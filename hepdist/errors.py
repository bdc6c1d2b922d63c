"""The errors a user can meet; each message is one sentence that names the thing, the reason and the way out."""


class HepdistError(Exception):
    """Anything hepdist refuses on purpose; the command line prints its message without a traceback and exits 2."""


class RecipeError(HepdistError):
    """A recipe or an override that can't be run: names the key and the fix."""


class CohortError(HepdistError):
    """A cohort on disk that is damaged, incomplete or breaks an invariant."""


class IngestError(HepdistError):
    """A source that can't be ingested as a whole (a single bad file goes to the audit instead)."""


class StoreError(HepdistError):
    """An object store that can't be reached, refuses access or lacks the bucket; trying again later can help, other files can't."""


class ClusterError(HepdistError):
    """A cluster file that can't be read or merged at all: names the line where there is one."""


class ExportError(HepdistError):
    """An export that can't be made as it was asked for."""


class RunError(HepdistError):
    """A run folder, checkpoint or cluster that can't do what was asked."""


class DivergedError(RunError):
    """A loss or gradient that is not finite, where the recipe says to stop."""
