"""The mechanisms of a charter behind one interface, and the two that are plain sums with noise.

A mechanism is bound to one charter, its public set and one hospital. What it plans, bounds and does
with an opened sum comes from public values alone; only `Mechanism.contribution` and
`Mechanism.prepare` see patients. The order is fixed by whoever runs it: `prepare` (which may refuse
and costs nothing), the ledger's debit, then the prepared release, once, which draws noise.

- `ProbeMechanism`: `fedhelp_secure.privacy.probe`, several rounds.
- `LogitNoise`: the hospital's own model's logits on the proxy set, centred, on the grid, clipped as
  one matrix. One patient may change a trained model in any way, so that the sensitivity is the
  diameter of the ball, two clips. Sound, and nearly useless: the baseline that shows why.
- ``dp_sgd`` needs torch: `fedhelp_client.dp_sgd`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import InternalError
from fedhelp_secure.privacy import probe
from fedhelp_secure.privacy.events import PrivacyEvent, event_of
from fedhelp_secure.privacy.parameters import MechanismName, Sensitivity
from fedhelp_secure.public_set import PublicSet
from fedhelp_secure.secure_sum.fixed_point import quantise, to_real
from fedhelp_secure.secure_sum.opening import OpenedSum

NoiseSource = Callable[[int, int], NDArray[np.int64]]
"""`fedhelp_secure.privacy.noise.draw_share`: (values, scale in grid units) to fresh integers."""

PreparedRelease = Callable[[NoiseSource], NDArray[np.int64]]
"""Call it once, after the debit: the release in grid units, [values]."""

PublicState = NDArray[np.float64]
"""What is public between rounds: the probe's model [D, C], or labels on the proxies [N, T, C]."""

Inputs_contra = TypeVar("Inputs_contra", contravariant=True)
"""What a mechanism takes of a hospital's patients."""

_SMALLEST_LABEL = 1e-6
_LARGEST_LOGIT = 1e6
"""Far above any clip: what the grid can hold must not depend on a model."""


class MechanismMisused(InternalError):
    """Charter, mechanism and values do not fit one another."""

    code = "mechanism"


@dataclass(frozen=True, slots=True)
class ReleaseSpec:
    """One release as charter and public set fix it; nothing in it depends on a patient."""

    round: int
    fraction_bits: int
    """One grid unit is 2**-fraction_bits."""
    event: PrivacyEvent
    """Values, clip, sensitivity with its rule, noise, weight, cohort: what the ledger will hold."""

    @property
    def sensitivity(self) -> Sensitivity:
        """Of the hospital's own query, exactly, and the rule that it follows from."""
        return Sensitivity(Fraction(self.event.sensitivity), self.event.rule)


@dataclass(frozen=True, slots=True, eq=False)
class PublicLabels:
    """What the opened sums amount to; the same at every hospital, and free to use."""

    proxies: NDArray[np.float64]
    """Soft labels [N, T, C] on the proxy set; rows sum to 1."""
    model: NDArray[np.float64]
    """[D, C]: `probe.soft_labels` of it labels any image from its public features."""


class Mechanism(Protocol[Inputs_contra]):
    """One hospital's part in the releases of one charter."""

    @property
    def name(self) -> MechanismName:
        """As in the charter."""

    def plan(self) -> tuple[ReleaseSpec, ...]:
        """Every release of the charter, from public data alone."""

    def initial_state(self) -> PublicState:
        """What is public before the first round."""

    def contribution(self, state: PublicState, inputs: Inputs_contra) -> NDArray[np.int64]:
        """The query whose sensitivity the plan states, in grid units; pure, without noise."""

    def prepare(self, state: PublicState, inputs: Inputs_contra) -> PreparedRelease:
        """Everything that may refuse, before the debit; draws nothing. Raises PatientsRefused."""

    def postprocess(
        self, state: PublicState, opened: OpenedSum, *, round_number: int
    ) -> PublicState:
        """The state after the round ``round_number``, whose sum is ``opened``."""

    def labels(self, state: PublicState) -> PublicLabels:
        """What the last state amounts to."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The charter, its public set, and the hospital that this is."""

    charter: Charter
    public_set: PublicSet
    hospital: str

    def plan(self) -> tuple[ReleaseSpec, ...]:
        """See `Mechanism.plan`."""
        event = event_of(self.charter, self.hospital)
        bits = self.charter.secure_sum.fraction_bits
        rounds = range(1, self.charter.rounds.count + 1)
        return tuple(ReleaseSpec(number, bits, event) for number in rounds)

    def with_share(self, query: NDArray[np.int64]) -> PreparedRelease:
        """The release of ``query`` and this hospital's share of noise."""
        scale = self.charter.share_units(self.charter.hospital(self.hospital).group)
        return lambda draw: query + draw(len(query), scale)


@dataclass(frozen=True, slots=True)
class ProbeMechanism:
    """`fedhelp_secure.privacy.probe` as a mechanism; takes a hospital's patients."""

    setting: Setting
    name: MechanismName = "probe"

    def plan(self) -> tuple[ReleaseSpec, ...]:
        """See `Mechanism.plan`."""
        return self.setting.plan()

    def initial_state(self) -> PublicState:
        """The model of zeros, [D, C]."""
        return probe.initial_model(self.setting.charter)

    def contribution(
        self, state: PublicState, inputs: Sequence[probe.PatientExamples]
    ) -> NDArray[np.int64]:
        """The sum of the patients' clipped vectors; see `probe.contribution`."""
        return probe.contribution(self.setting.charter, state, inputs)

    def prepare(
        self, state: PublicState, inputs: Sequence[probe.PatientExamples]
    ) -> PreparedRelease:
        """The contribution, and a share of noise when it is called."""
        return self.setting.with_share(self.contribution(state, inputs))

    def postprocess(
        self, state: PublicState, opened: OpenedSum, *, round_number: int
    ) -> PublicState:
        """The model one step on; see `probe.apply_step`."""
        setting = self.setting
        return probe.apply_step(
            setting.charter, setting.public_set, state, opened.values, round_number=round_number
        )

    def labels(self, state: PublicState) -> PublicLabels:
        """The model, and its labels on the proxies."""
        return PublicLabels(probe.soft_labels(state, self.setting.public_set.features), state)


@dataclass(frozen=True, slots=True)
class LogitNoise:
    """A trained model's logits with noise for their full range; takes logits [N, T, C]."""

    setting: Setting
    name: MechanismName = "logit_noise"

    def plan(self) -> tuple[ReleaseSpec, ...]:
        """See `Mechanism.plan`."""
        return self.setting.plan()

    def initial_state(self) -> PublicState:
        """Logits of zero."""
        return np.zeros(_label_shape(self.setting))

    def contribution(self, state: PublicState, inputs: NDArray[np.floating]) -> NDArray[np.int64]:
        """``inputs``, each row centred, on the grid, clipped as one matrix in integers.

        Raises PatientsRefused for other than finite numbers: nothing was debited.
        """
        if inputs.shape != _label_shape(self.setting):
            raise MechanismMisused("the logits do not have the charter's proxies and classes.")
        if not np.isfinite(inputs).all():
            raise probe.PatientsRefused(
                "the own model's logits are not finite; train it again before taking part."
            )
        logits = np.clip(inputs.astype(np.float64), -_LARGEST_LOGIT, _LARGEST_LOGIT)
        centred: NDArray[np.float64] = logits - logits.mean(axis=-1, keepdims=True)
        charter = self.setting.charter
        integers = quantise(centred.reshape(-1), charter.secure_sum.fraction_bits)
        return probe.clip(integers, charter.privacy.clip_units)

    def prepare(self, state: PublicState, inputs: NDArray[np.floating]) -> PreparedRelease:
        """The clipped logits, and a share of noise when it is called."""
        return self.setting.with_share(self.contribution(state, inputs))

    def postprocess(
        self, state: PublicState, opened: OpenedSum, *, round_number: int
    ) -> PublicState:
        """The weighted mean of the hospitals' noised logits, [N, T, C]."""
        return mean_of_sum(self.setting, opened)

    def labels(self, state: PublicState) -> PublicLabels:
        """Softmax of the mean logits."""
        powers = np.exp(state - state.max(axis=-1, keepdims=True))
        return labels_of(self.setting, powers / powers.sum(axis=-1, keepdims=True))


def mean_of_sum(setting: Setting, opened: OpenedSum) -> NDArray[np.float64]:
    """``opened`` as reals over the public weight of the hospitals in it, [N, T, C].

    Raises MechanismMisused without hospitals or for another number of values.
    """
    shape = _label_shape(setting)
    if not opened.hospitals or opened.values.shape != (setting.charter.secure_sum.values,):
        raise MechanismMisused("the opened sum does not have the charter's values and hospitals.")
    weight = sum(setting.charter.weight_of(name) for name in opened.hospitals)
    reals = to_real(opened.values, setting.charter.secure_sum.fraction_bits)
    mean: NDArray[np.float64] = reals.reshape(shape) / weight
    return mean


def labels_of(setting: Setting, proxies: NDArray[np.float64]) -> PublicLabels:
    """``proxies`` [N, T, C] with the linear model on public features that explains them best.

    Ridge regression, with the charter's ridge, of the centred log labels on the proxies' features:
    public values only, so that it costs no privacy.
    """
    features = setting.public_set.features.reshape(-1, setting.public_set.projection.dimension)
    rows = features.astype(np.float64)
    logs = np.log(np.maximum(proxies.reshape(len(rows), -1), _SMALLEST_LABEL))
    centred = logs - logs.mean(axis=1, keepdims=True)
    ridge = float(setting.charter.probe.ridge) * np.eye(rows.shape[1])
    moment = rows.T @ rows / len(rows) + ridge
    model: NDArray[np.float64] = np.linalg.lstsq(moment, rows.T @ centred / len(rows), rcond=None)[
        0
    ]
    return PublicLabels(proxies, model)


def _label_shape(setting: Setting) -> tuple[int, int, int]:
    """[N, T, C]; raises MechanismMisused if charter and public set differ about it."""
    count, tokens = setting.public_set.features.shape[:2]
    shape = (int(count), int(tokens), len(setting.charter.classes))
    if shape[0] * shape[1] * shape[2] != setting.charter.secure_sum.values:
        raise MechanismMisused("the public set's rows are not those of the charter's releases.")
    return shape
