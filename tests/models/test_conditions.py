"""A value that is not known and one that is dropped are the same to the network, and known ones are not."""

import math
from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from meddiff_core.contract import Contract
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.conditions import AUGMENT_DIM, ConditionEmbedding, encode_conditions


@pytest.fixture
def embedding(contract: Contract) -> ConditionEmbedding:
    torch.manual_seed(0)
    layer = ConditionEmbedding(contract.conditions, 8)
    torch.nn.init.normal_(layer.absent)
    return layer


def test_numbers_are_standardised_and_categories_counted(contract: Contract) -> None:
    vectors = encode_conditions([{"age": 60.0, "sex": "M"}, {"sex": "F", "age": 50.0}], contract.conditions)
    assert_close(vectors, torch.tensor([[1.0, 1.0], [0.0, 0.0]]))


def test_a_missing_name_and_none_are_absent(contract: Contract) -> None:
    vectors = encode_conditions([{"sex": "M"}, {"age": None, "sex": "M"}, {}], contract.conditions)
    assert vectors.isnan().tolist() == [[True, False], [True, False], [True, True]]


def test_a_missing_value_is_embedded_as_a_dropped_one(contract: Contract, embedding: ConditionEmbedding) -> None:
    missing = encode_conditions([{"sex": "M"}], contract.conditions)
    dropped = encode_conditions([{"age": 33.0, "sex": "M"}], contract.conditions)
    dropped[:, 0] = torch.nan
    assert torch.equal(embedding(missing), embedding(dropped))


def test_what_is_all_absent_is_the_sum_of_the_learned_vectors(embedding: ConditionEmbedding) -> None:
    embedded = embedding(torch.full((3, 2), torch.nan))
    assert_close(embedded, embedding.absent.sum(dim=0).expand(3, 8))


def test_known_values_differ_from_each_other_and_from_the_absent(embedding: ConditionEmbedding) -> None:
    grid = [[age, sex] for age in (-2.0, 0.0, 0.1, 2.0, math.nan) for sex in (0.0, 1.0, math.nan)]
    embedded = embedding(torch.tensor(grid)).detach()
    distances = torch.cdist(embedded, embedded) + 9 * torch.eye(len(grid))
    assert distances.min() > 1e-3


def test_an_absent_value_sends_no_gradient_through_the_embedding_of_known_ones(embedding: ConditionEmbedding) -> None:
    embedding(torch.full((2, 2), torch.nan)).sum().backward()
    gradients = [parameter.grad for parameter in embedding.embeddings.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() and not gradient.any() for gradient in gradients)
    assert embedding.absent.grad is not None
    assert embedding.absent.grad.all()


def test_a_row_does_not_depend_on_the_others(embedding: ConditionEmbedding) -> None:
    vectors = torch.tensor([[0.5, 1.0], [math.nan, 0.0], [-1.0, math.nan]])
    assert_close(embedding(vectors), torch.cat([embedding(row[None]) for row in vectors]))


def test_a_study_without_conditions_embeds_nothing(make_contract: Callable[..., Contract]) -> None:
    specs = make_contract(conditions=()).conditions
    vectors = encode_conditions([{}, {}], specs)
    assert vectors.shape == (2, 0)
    assert torch.equal(ConditionEmbedding(specs, 8)(vectors), torch.zeros(2, 8))


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"sex": "X"}, r"condition sex must be one of \['F', 'M'\], is 'X'"),
        ({"sex": 1.0}, r"condition sex must be one of \['F', 'M'\], is 1.0"),
        ({"age": "old"}, "condition age must be a number, is 'old'"),
        ({"weight": 70.0}, r"condition must be one of \['age', 'sex'\], is 'weight'"),
    ],
)
def test_what_training_never_saw_is_refused(contract: Contract, condition: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        encode_conditions([condition], contract.conditions)  # type: ignore[list-item]


def test_weights_that_know_fewer_augmentations_sample_as_they_did(
    contract: Contract, embedding: ConditionEmbedding
) -> None:
    vectors = encode_conditions([{"age": 40.0, "sex": "M"}], contract.conditions)
    older = {name: tensor.clone() for name, tensor in embedding.state_dict().items()}
    older["moves.weight"] = older["moves.weight"][:, :4]
    restored = ConditionEmbedding(contract.conditions, 8)
    restored.load_state_dict(older)
    assert torch.equal(restored(vectors), embedding(vectors))
    warped = torch.cat([vectors, torch.eye(AUGMENT_DIM)[8:9]], dim=1)
    assert torch.equal(restored(warped), restored(vectors))
    assert not torch.equal(embedding(warped), embedding(vectors))
