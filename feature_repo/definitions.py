"""What Feast finds when it reads this folder: the definitions of `featurestore`, for the home that the settings name.

Feast's own command line imports every file here; nothing else does. `tidegate features apply` puts the same ones into
force and writes the `feature_store.yaml` of the home: `feast -f build/home/features/feature_store.yaml ui`.
"""

from featurestore.definitions import declare
from featurestore.layout import Place
from moderation.settings import settings

globals().update({f"object_{n}": one for n, one in enumerate(declare(Place.of(settings()).folder))})
