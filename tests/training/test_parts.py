import numpy as np
import pytest

from bench.data import catalog
from bench.errors import UsageError
from bench.protocol import Folds
from bench.training.parts import split_training_side


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory):
    return catalog.open_dataset("glyphs", tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("rule", ["strided", "contiguous"])
def test_folds_partition_the_training_classes_and_keep_groups_together(glyphs, rule):
    folds = Folds(count=5, rule=rule, use=(0, 1, 2, 3, 4))
    side = glyphs.split.train
    seen = []
    for fold in folds.use:
        part, held = split_training_side(glyphs, folds, fold)
        together = np.sort(np.concatenate([part.positions, held.positions]))
        assert np.array_equal(together, np.arange(len(side)))
        train_groups = set(glyphs.class_groups[glyphs.labels[side[part.positions]]])
        held_groups = set(glyphs.class_groups[glyphs.labels[side[held.positions]]])
        assert not train_groups & held_groups
        seen += sorted(set(glyphs.labels[side[held.positions]]))
    assert sorted(seen) == sorted(set(glyphs.labels[side]))


def test_labels_are_renumbered_without_gaps_in_official_order(glyphs):
    part, held = split_training_side(glyphs, Folds(count=3, use=(1,)), 1)
    for piece in (part, held):
        official = glyphs.labels[glyphs.split.train[piece.positions]]
        classes = np.unique(official)
        assert np.array_equal(classes[piece.labels], official)
        assert piece.classes == len(classes)


def test_no_folds_train_on_everything(glyphs):
    part, held = split_training_side(glyphs, None, None)
    assert held is None
    assert len(part.positions) == len(glyphs.split.train)


def test_more_folds_than_groups_is_refused(tmp_path):
    digits = catalog.open_dataset("digits", tmp_path)
    with pytest.raises(UsageError, match="5 groups of training classes cannot be cut into 6 folds"):
        split_training_side(digits, Folds(count=6), 0)
