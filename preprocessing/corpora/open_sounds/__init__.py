"""Open sounds: a corpus of real sounds with free licences, as HDF5 files that anyone can make again.

The lists name recordings in Debian packages (labelled ones, and unlabelled ones that have a teacher's scores alone) and
in public git repositories, and recipes of synthetic sounds: General MIDI soundfonts played by fluidsynth, sentences
spoken by espeak-ng and flite. `data/README.md` tells where they come from. `prepare_open_sounds` gets packages (from
apt or a folder) and repositories (by git, or from tars), decodes the recordings and writes

| file                         | clips                                                                            |
| ---------------------------- | -------------------------------------------------------------------------------- |
| `train.h5`, `validation.h5`  | recordings in packages; no package is in two files                               |
| `test.h5`                    | the same; two packages or more of nearly every class that has four               |
| `unlabelled.h5`              | unlabelled recordings in the packages of `train.h5`                              |
| `repositories_train.h5`, ... | recordings in repositories: also `_validation` and `_test`, split in the same way |
| `synthetic.h5`               | the synthetic part, for training                                                 |
| `copyright/`                 | what each package says about the authors and licences of its sounds              |

in the layout of `preprocessing.clips`, with the teacher's scores and the clips' true lengths before zero-padding
(attribute `samples`). A package or repository is fetched, decoded and removed before the next one, so a run needs
little more disk than its result, and one that was killed goes on with the package or repository that it was at.
"""

from preprocessing.corpora.open_sounds.lists import OpenSoundsError
from preprocessing.corpora.open_sounds.prepare import prepare_open_sounds

__all__ = ["OpenSoundsError", "prepare_open_sounds"]
