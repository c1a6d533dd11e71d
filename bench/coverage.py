"""How many automata that others have published run as one rollout, feature by feature: python -m bench.coverage

The automata are all those on a grid of one or two dimensions, trained by gradient, among 114 codes that were read. What
each needs beside the growing automaton's step was read in its code. Whether the product has a feature is asked of the
product: a rollout with it must run in the C++ kernel, and its gradient too. Writes bench/results/coverage.json.
"""

import torch

from bench.harness import RESULTS, header, write_result
from nca_fast import Rule, rollout

# Name: letters of FEATURES, or what is in its way. The main model of each, as its default training sets it up.
PUBLISHED = {
    "google-research/self-organising-systems: growing_ca": "",
    "google-research/self-organising-systems: texture_nca_pytorch": "",
    "google-research/self-organising-systems: texture_ca (TF package)": "never: fake quantisation of every stage",
    "google-research/self-organising-systems: mnist_ca (self-classifying MNIST)": "NR",
    "google-research/self-organising-systems: adversarial_growing": "XT",
    "google-research/self-organising-systems: adversarial_mnist": "NR",
    "google-research/self-organising-systems: async": "",
    "google-research/self-organising-systems: isotropic_nca (2 notebooks)": "never: gradients turned by a state angle",
    "google-research/self-organising-systems: noise_controlled_nca": "N",
    "google-research/self-organising-systems: muNCA_pytorch": "",
    "chenmingxiang110/NCA_Prediction": "T",
    "chenmingxiang110/VAE-NCA": "",
    "hugcis/hybrid-nca-evocraft (2D script)": "A",
    "aVariengien/self-organized-control": "T",
    "LetteraUnica/neural_cellular_automata": "",
    "rasmusbergpalm/vnca": "HL",
    "greydanus/studying_growth": "FT",
    "PWhiddy/Growing-Neural-Cellular-Automata-Pytorch": "",
    "smearle/pathfinding-nca": "XCHL",
    "MECLabTUDA/Med-NCA": "P",
    "IVRL/DyNCA (vector field)": "P",
    "HighTempIntegrity/JianTang-NCA01": "never: four 3x3 convolutions a step",
    "LanaSina/NCA_self_replication": "T",
    "jstovold/ALIFE2023": "",
    "jstovold/ALIFE2025": "",
    "koutefra/dinca": "C",
    "RituPande/hnca": "never: two grids of different size",
    "Deskt0r/LocalAttentionNCA": "never: attention",
    "IVRL/NoiseNCA": "",
    "MECLabTUDA/OctreeNCA": "never: batch statistics",
    "Menta99/LatentNeuralCellularAutomata": "never: attention",
    "xmed-lab/GeCA": "never: attention",
    "maxencefaldor/cax (growing; conditional, MNIST, 1D-ARC too)": "",
    "etimush/EngramNCA": "WA",
    "etimush/ARC_NCA": "W",
    "marrlab/resilience": "P",
    "TrungTin98/NICA": "never: attention",
    "alisakour/Conditional-NCA-Digits": "A",
    "maltesilber/rnca": "FS",
    "mia-katrin/attractors": "",
    "danihyunlee/nca-pre-pretraining": "XT",
    "mspitzna/NCAtorch (emoji config)": "NCUA",
    "MagnusPetersen/MNNCA": "XT",
    "broadinstitute/latent-dynamical-systems": "XTHU",
    "MECLabTUDA/NCALab": "AP",
    "shyamsn97/controllable-ncas (Goal-guided)": "TC",
    "MagnusPetersen/Neural-Cellular-Automata-Image-Manipulation": "XT",
    "Mainakdeb/text-2-cellular-automata": "",
    "giorgia-nadizar/nca-vsr-classification": "FRS",
    "tulerpetontidae/nca-cellflow": "U",
    "nhbess/NCA-REAL": "FS",
    "HugePandaCoder/octree-nca-groupeq (Diff-NCA, FourierDiff-NCA)": "never: layer norm over the picture",
    "ludekcizinsky/hypernca": "",
    "johnowhitaker/game_nca": "U",
    "Morpheo1/DyNCAwithCLIP": "PR",
}  # fmt: skip
HOBBY = {
    "Jaldekoa/Replicating-Neural-Cellular-Automata": "",
    "aitor-perez/growing-neural-cellular-automata": "XT",
    "tensorway/Neural-cellular-automata-and-Bitcoin": "FST",
    "andrecharneca/Adaptive-Neural-Cellular-Automata": "never: a second network decides who fires",
    "yuma2ok/Growing-Neural-Cellular-Automata": "",
    "joshnunley/neural-cellular-automata": "",
    "manishiitmandi/GNCA-Graph-based": "never: graph",
    "octaviomtz/Growing-Neural-Cellular-Automata": "",
    "GrzegorzR/Growing-Neural-Cellular-Automata": "never: a reshape mixes 16 neighbouring cells",
    "riiswa/neural-cellular-automata": "T",
    "meierh/Variational_Neural_Cellular_Automata": "HL",
    "AlbertoSinigaglia/growing-neural-cellular-automata": "A",
    "cattolatte/self-healing-neural-cellular-automata": "T",
    "krishnan-meep/Growing_Neural_Cellular_Automata": "AF",
    "chenmingxiang110/Growing-Neural-Cellular-Automata": "",
    "gorold/neural-cellular-automata": "",
    "pacochow/Neural-CA": "",
    "MishaRubanov/DNAHydrogelNeuralCellularAutomata": "",
    "miltonllera/diff-nca": "",
    "MonashDeepNeuron/Neural-Cellular-Automata": "AF",
    "SethPipho/pytorch-neural-cellular-automata": "A",
    "rstar000/neural-ca-pytorch": "AF",
    "adrianmarino/growing-neural-cellular-automata": "AC",
    "vishvak-ravi/neural-cellular-automata": "TU",
    "Mahdi-Ayadi/NCA_MNIST_CodingWeeksCS": "XT",
    "simonerufo/Motion-Neural-Cellular-Automata": "TCA",
    "mohamed32145/Frequency-Time-Diffusion": "never: group norm",
}  # fmt: skip


def growing(**fields) -> Rule:
    """A rule with an alive mask."""
    return Rule(6, (8,), ("identity", "sobel_x/8", "sobel_y/8"), alive_channel=3, padding="zero", **fields)


def of_steps(rule: Rule) -> list:
    """Weights of two rules that take turns."""
    return [(torch.randn(2, 1, *w), None if b is None else torch.randn(2, 1, *b)) for w, b in rule.weight_shapes]


STATE = (2, 6, 8, 9)
# Letters, and for each what must run: a rule and arguments of `rollout`.
FEATURES = {
    "the growing automaton's step": {"": [(growing(), {})]},
    "alive modes, padding of its pool": {
        "A": [(growing(alive_mask=mode), {}) for mode in ("before", "after", "update")]
        + [(Rule(6, (8,), alive_channel=3, alive_padding="zero"), {})]
    },
    "padding reflect, replicate": {"P": [(Rule(6, (8,), padding=p), {}) for p in ("reflect", "replicate")]},
    "who fires: shared axes; rates by step, sample and channel": {
        "F": [(Rule(6, (8,), fire_shared=axes), {}) for axes in ((), ("batch", "channel"), ("height", "width"))],
        "R": [(Rule(6, (8,)), {"fire_rate": torch.rand(3, *STATE)})],
    },
    "noise": {"N": [(Rule(6, (8,), state_noise=0.1, update_noise=0.1), {"noise": torch.tensor([0.0, 1.0])})]},
    "states at some steps": {"S": [(growing(), {"at": range(2, 5)})]},
    "clamp; activation of the update": {
        "C": [(growing(clamp=(-1, 1)), {})],
        "U": [(Rule(6, (8,), update_activation="tanh/10"), {})],
    },
    "no residual": {"X": [(Rule(6, (8,), residual=False), {})]},
    "after: a torch function": {"T": [(growing(), {"after": lambda x, y, n: y.softmax(1)})]},
    "weights by step": {"W": [(growing(), {"weights": of_steps})]},
    "activations; no hidden layer; more than 64 channels": {
        "H": [(Rule(6, (8,), activation=name), {}) for name in ("elu", "leaky_relu(0.2)", "tanh")]
        + [(Rule(6, ()), {})],
        "L": [(Rule(128, (8,)), {})],
    },
}


def runs(rule: Rule, options: dict) -> bool:
    """Whether a rollout of four steps and its gradient are finite in the C++ kernel."""
    made = options.get("weights", lambda rule: [(torch.randn(w), b and torch.randn(b)) for w, b in rule.weight_shapes])
    weights = [(w * 0.1, b) for w, b in made(rule)]
    x = torch.rand(2, rule.channels, *STATE[2:], requires_grad=True)
    others = {name: value for name, value in options.items() if name != "weights"}
    y = rollout(x, weights, rule, 4, seed=0, backend="cpu", **others)
    return all(t.isfinite().all() for t in (y, *torch.autograd.grad(y.square().sum(), x)))


def main() -> None:
    """Prints the table, and writes it."""
    torch.manual_seed(0)
    everything, rows, have, before = PUBLISHED | HOBBY, [], set(), set()
    for name, letters in FEATURES.items():
        have |= {letter for letter, cases in letters.items() if all(runs(*case) for case in cases)}
        now = {automaton for automaton, needs in everything.items() if set(needs) <= have}
        row = {
            "feature": name,
            "brings": sorted(now - before),
            "covered": len(now),
            "published": len(now & set(PUBLISHED)),
        }
        rows.append(row)
        counts = f"{len(now)} of {len(everything)}, {row['published']} of {len(PUBLISHED)}"
        print(f"+{len(now - before):2d} -> {counts}: {name}")
        before = now
    of_after = {automaton for automaton in before if "T" in everything[automaton]}
    totals = {
        "automata": len(everything),
        "published": len(PUBLISHED),
        "covered": len(before),
        "covered_published": len(before & set(PUBLISHED)),
        "with_after": len(of_after),
        "with_after_published": len(of_after & set(PUBLISHED)),
        "not": {automaton: everything[automaton] for automaton in everything if automaton not in before},
    }
    print(totals)
    write_result(RESULTS / "coverage.json", {"header": header(), "totals": totals, "rows": rows})


if __name__ == "__main__":
    main()
