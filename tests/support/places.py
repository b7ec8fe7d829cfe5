"""Where things lie: the repository, its documents and programs, and the images that are not for release."""

import os
from pathlib import Path

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]
SHARED = Path(os.environ.get("PLDISTILL_TEST_DATA") or ROOT.parent / "shared" / "data")
