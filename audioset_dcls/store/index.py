"""The store as an object: what the commands do, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audioset_dcls.store.database import Database
from audioset_dcls.store.search import TOP, Hit, search_label, search_like
from preprocessing.files import sha256_of

if TYPE_CHECKING:
    from audioset_dcls.store.update import Update
    from audioset_dcls.tagging.tagger import Tagger


class Index:
    """A store of recordings, made of windows with their embeddings and scores.

    path: of the SQLite file; `update` makes it.

    >>> index = Index("sounds.db")                              # doctest: +SKIP
    >>> index.update(["recordings"])                            # doctest: +SKIP
    >>> index.label("Dog", top=1)                               # doctest: +SKIP
    [Hit(file='/home/me/recordings/dog_bark.ogg', start=0.0, end=0.919, score=0.8935)]
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __len__(self) -> int:
        """Windows."""
        with Database(self.path) as database:
            return int(database.value("SELECT count(*) FROM windows"))

    def update(self, inputs: str | Path | Sequence[str | Path], tagger: Tagger | None = None) -> Update:
        """Add what is new or changed in files, folders and globs, remove what is gone; see `update`."""
        from audioset_dcls.store.update import update
        from audioset_dcls.tagging.tagger import Tagger

        many = [inputs] if isinstance(inputs, str | Path) else inputs
        return update(self.path, [str(one) for one in many], tagger or Tagger(), quiet=True)

    def label(self, label: str, top: int = TOP) -> list[Hit]:
        """The places with the highest scores of a class. Raises ValueError for an unknown one, StoreError."""
        with Database(self.path) as database:
            return search_label(database, label, top)

    def like(
        self,
        source: str | Path | np.ndarray,
        start: float = 0.0,
        end: float | None = None,
        top: int = TOP,
        tagger: Tagger | None = None,
    ) -> list[Hit]:
        """The places nearest to an example by cosine.

        Args:
            source: a recording, or an embedding (D,).
            start, end: the part of a recording to look for, in seconds.
            tagger: the store's model; by default the embedded one.

        Raises StoreError, also where the store is another model's; AudioError for a recording without sound there.
        """
        with Database(self.path) as database:
            if not isinstance(source, np.ndarray):
                from audioset_dcls.tagging.tagger import Tagger

                source = embedding_of(database, str(source), start, end, tagger or Tagger())
            return search_like(database, source, top)


def embedding_of(database: Database, path: str, start: float, end: float | None, tagger: Tagger) -> np.ndarray:
    """(D,) float32: the mean over the windows of a part of a recording. Raises StoreError, AudioError."""
    from audioset_dcls.store.cut import cut

    model = tagger.model
    database.check_model(sha256_of(model.path), model.path.name)
    facts = database.facts
    samples = cut(path, start, end, model.sample_rate)
    result = tagger(samples, model.sample_rate, window=facts.window, hop=facts.hop)
    assert result.embedding is not None
    return result.embedding
