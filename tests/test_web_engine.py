"""The page's shaders give the known answers in Chromium and Firefox: masks to the bit, states within every backend's
tolerances."""

import json

import pytest
import torch
from browser import browsers
from firefox import firefox_tab

from nca_fast import NCA, conformance, reference
from nca_fast.derivatives import derivatives
from nca_fast.filters import NAMES, Filter, named
from nca_fast.reference import split
from nca_fast.web import bundle, models, page

VECTORS = {vector.name: vector for vector in conformance.load_all()}

ANSWER = """
const device = new Device(new OffscreenCanvas(1, 1));
const layer = ([weight, bias]) => ({ weight: Float32Array.from(weight), bias: bias && Float32Array.from(bias) });
window.answer = (question) => {
  const [samples, , height, width] = question.shape;
  const found = [];
  for (let b = 0; b < samples; b++) {
    const { kernels, layers } = question.networks[b % question.networks.length];
    const network = { kernels: kernels && Float32Array.from(kernels), layers: layers.map(layer) };
    const world = new World(device, question.rule, [network], height, width);
    world.where = { ...question.where, seed: BigInt(question.where.seed), sample: question.where.sample + b };
    world.step = question.step;
    world.setRates(question.rates && Float32Array.from(question.rates));
    world.setFrames(question.frames && Float32Array.from(question.frames));
    world.write(Float32Array.from(question.x[b]));
    world.advance(question.steps);
    found.push(...world.read());
    world.remove();
  }
  const error = device.gl.getError();
  if (error) throw new Error(`WebGL error ${error}`);
  return found;
};
"""


def page_with(browser, script):
    """Opens an empty page with a script."""
    tab = browser.new_page()
    tab.add_script_tag(content=script)
    return tab


@pytest.fixture(scope="module")
def browser():
    with browsers() as start:
        yield start()


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def engine(request):
    """A page that answers questions: under SwiftShader in Chromium, under Mesa's llvmpipe in Firefox."""
    script = bundle.bundled("world.js") + ANSWER
    if request.param == "chromium":
        yield page_with(request.getfixturevalue("browser"), script)
        return
    with firefox_tab() as tab:
        tab.add_script_tag(content=script)
        yield tab


def question(vector):
    """What a page is asked, as JSON."""
    x, weights, rates, _ = conformance.inputs(vector)
    kernels, layers = split(weights, vector.rule)

    def network(sample):
        def own(t):
            return None if t is None else (t[sample] if vector.per_sample else t).flatten().tolist()

        return {"kernels": own(kernels), "layers": [[own(weight), own(bias)] for weight, bias in layers]}

    frames = conformance.frames(vector)
    at, (row, column) = vector.where, vector.where["origin"]
    where = {"row": row, "column": column, "sample": at["first_sample"], "canvasHeight": at["canvas_height"] or 0}
    return {
        "rule": json.loads(vector.rule.to_json()),
        "networks": [network(sample) for sample in range(vector.shape[0] if vector.per_sample else 1)],
        "where": where | {"seed": str(at["seed"])},
        "step": at["first_step"],
        "steps": vector.steps,
        "rates": None if rates is None else rates.flatten().tolist(),
        "frames": None if frames is None else frames.flatten().tolist(),
        "shape": vector.shape,
        "x": [sample.flatten().tolist() for sample in x],
    }


def error(tab, vector):
    """The largest error of a page's answer, as a share of its tolerance."""
    answer = vector.answers["y"]
    found = tab.evaluate("(question) => window.answer(question)", question(vector))
    found = torch.tensor(found, dtype=torch.float64).reshape(answer["shape"])
    return conformance.share(found, answer)


@pytest.mark.parametrize("name", VECTORS)
def test_known_answers(engine, name):
    """Worst seen in Chromium: 0.20 of a tolerance; in Firefox 0.19."""
    assert error(engine, VECTORS[name]) <= 1


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("mask_01_seed", "z ^= z >> 16;", "z ^= z >> 17;"),
        ("rollout_04_growing", "lives ? cut(x", "true ? cut(x"),
        ("rollout_25_frames", "y[${f * quads} + quad] *= dot(frame, frame);", "n *= 1.0;"),
    ],
)
def test_a_wrong_shader_is_noticed(browser, name, right, wrong):
    script = bundle.bundled("world.js") + ANSWER
    assert right in script
    assert error(page_with(browser, script.replace(right, wrong)), VECTORS[name]) > 1


@pytest.mark.parametrize("engine", ["firefox"], indirect=True)
def test_the_page_opens_in_firefox(engine, tmp_path):
    """And computes there what Python does. The largest error seen is 1e-7, of numbers up to 0.5."""
    page.write_page(models.read(["zoo:bricks"]), "Automata", tmp_path / "page.html")
    tab, nca = engine.another(), NCA.from_pretrained("zoo:bricks")
    tab.goto((tmp_path / "page.html").as_uri())
    size = "{ height: 24, width: 32, seed: 5n }"
    found = tab.evaluate(
        "async () => { while (!window.nca) await new Promise((go) => setTimeout(go, 20));"
        "const { app } = window.nca; app.swatches.waiting = [];"
        f"app.replace(app.scene.family, {size}); app.play(false); app.scene.advance(12);"
        "return [document.getElementById('notice').textContent, ...app.scene.world.read()]; }"
    )
    with torch.no_grad():
        exact = reference.rollout(torch.zeros(1, 12, 24, 32).double(), nca.weights, nca.rule, 12, seed=5)
    assert found[0] == "" and exact.abs().max() > 0.05
    assert (torch.tensor(found[1:]).view_as(exact).double() - exact).abs().max() < 1e-6


def test_filters_are_told_apart_as_in_python(browser):
    """Also those of other scales, without a partner, and with a name that says nothing or something else."""
    two = (Filter("one", named("scharr_x").taps, 0.5), Filter("laplacian", named("scharr_y").taps, 0.5))
    found = [tuple(map(named, NAMES)), two, two[::-1], two[:1], (two[0], named("scharr_y")), (named("sobel_y"),)]
    engine = page_with(browser, bundle.bundled("derivatives.js") + "window.derivatives = derivatives;")
    for filters in found:
        asked = [{"name": f.name, "taps": f.taps, "scale": f.scale} for f in filters]
        answer = engine.evaluate("(filters) => Object.values(window.derivatives(filters))", asked)
        assert answer == json.loads(json.dumps(derivatives(filters)))


def test_names_at_the_top_of_modules_differ(tmp_path, monkeypatch):
    (tmp_path / "a.js").write_text('import { b } from "./b.js";\nexport const a = b;\n')
    (tmp_path / "b.js").write_text("export const b = 1;\nfunction c() {}\n")
    monkeypatch.setattr(bundle, "SOURCE", tmp_path)
    assert bundle.bundled("a.js") == (
        '"use strict";\n\n// b.js\n\nconst b = 1;\nfunction c() {}\n\n// a.js\n\nconst a = b;\n'
    )
    (tmp_path / "b.js").write_text("export const b = 1;\nfunction a() {}\n")
    with pytest.raises(ValueError, match="more than one a"):
        bundle.bundled("a.js")
    (tmp_path / "b.js").write_text('import { a } from "./a.js";\nexport const b = 1;\n')
    with pytest.raises(ValueError, match="circle"):
        bundle.bundled("a.js")
