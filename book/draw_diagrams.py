"""Draw the diagrams of the methods, the world and the library into `book/figures/`.

    python book/draw_diagrams.py

They are 360 units wide, so that no text is under 11 pixels on a phone, on the white of all figures.
"""

import math
import re
from pathlib import Path

FOLDER = Path(__file__).parent / "figures"
WIDTH, SHOWN, LINE, INK = 360, 420, 18, "#1a1a1a"
KINDS = {  # fill and stroke; text, view and target have the colours of the chapters
    "text": ("#e1f0fa", "#0072b2"), "view": ("#fdeadf", "#d55e00"),
    "target": ("#e6e6e6", "#000000"), "query": ("#def3ea", "#00785a"),
    "trained": ("#f7e6f0", "#a3437a"), "frozen": ("#f4f4f2", "#6b6b6b"),
    "plain": ("#ffffff", "#6b6b6b"),
}  # fmt: skip
DATA = ("text", "view", "target", "query")
WHITE, GREEN, RED, WOOD = "#ffffff", "#009e73", "#d62f2f", "#8a5a33"
BEACH = [("#a8d8f0", 0), ("#3f8fc4", 42), ("#f1dca7", 58)]  # sky, sea and sand, from the top
KITE = [(26, 10), (37, 24), (26, 44), (15, 24)]
BOAT, SAIL = [(46, 50), (72, 50), (67, 57), (51, 57)], [(58, 48), (58, 26), (73, 48)]
STICK, ROOF = [(59, 52), (61, 52), (61, 78), (59, 78)], [(44, 56), (60, 40), (76, 56)]
SAILBOAT, UMBRELLA = [(WOOD, BOAT), (WHITE, SAIL)], [(WOOD, STICK), ("#7b3fa0", ROOF)]
STYLE = (
    "text{font:13.5px system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;"
    f"fill:{INK}}}.b{{font-weight:600}}.i{{font-style:italic}}.s{{font-size:11.5px}}"
    ".c{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:12.5px}"
    "rect,polyline{stroke-width:1.5}polyline{fill:none}"
)


def marked(text: str) -> str:
    """SVG of a line: `$z^T$` is mathematics, `code` is code, *words* are bold."""
    text = re.sub(r"`([^`]+)`", r'<tspan class="c">\1</tspan>', text)
    text = re.sub(r"\*([^*$]+)\*", r'<tspan class="b">\1</tspan>', text)
    return re.sub(r"\$([^$]+)\$", lambda found: _mathematics(found[1]), text)


def _mathematics(text: str) -> str:
    """Single letters are italic; what follows `_` or `^`, a character or `{...}`, is a script."""
    made, level = [], 0
    for script, group, run in re.findall(r"([_^])(\{[^}]+\}|.)|([^_^]+)", text):
        now = {"_": 4, "^": -5, "": 0}[script]
        for piece in re.findall(r"[^\W\d]+|\d+|\W+", group.strip("{}") or run):
            classes = " ".join("i" * (len(piece) == 1 and piece.isalpha()) + "s" * bool(script))
            named = f' class="{classes}"' if classes else ""
            shift = f' dy="{now - level}"' if now != level else ""
            level = now
            made.append(f"<tspan{named}{shift}>{piece}</tspan>")
    if level:  # an empty space that brings the line back
        made.append(f'<tspan dy="{-level}">\u200b</tspan>')
    return "".join(made)


class Diagram:
    """SVG that grows from top to bottom, in units of about a pixel on a phone."""

    def __init__(self, height: int, title: str):
        self.height, self.parts = height, [f"<title>{title}</title>", f"<style>{STYLE}</style>"]
        self.rect(0, 0, WIDTH, height, WHITE)

    def rect(self, x, y, width, height, fill, stroke="none", *, rx=0):
        place = f'x="{x:g}" y="{y:g}" width="{width}" height="{height}" rx="{rx:g}"'
        self.parts.append(f'<rect {place} fill="{fill}" stroke="{stroke}"/>')

    def polygon(self, points, fill, x=0.0, y=0.0):
        corners = " ".join(f"{round(x + a, 1):g},{round(y + b, 1):g}" for a, b in points)
        self.parts.append(f'<polygon points="{corners}" fill="{fill}"/>')

    def label(self, x, y, text, anchor="start", *, step=LINE):
        """Lines of text, with `|` between them."""
        for number, line in enumerate(text.split("|")):
            place = f'x="{x:g}" y="{y + step * number:g}" text-anchor="{anchor}"'
            self.parts.append(f"<text {place}>{marked(line)}</text>")

    def box(self, x, y, width, height, kind, text, *, after=None):
        """Lines in a box, round for data, with an arrow to it from the height `after`."""
        rx = min(height / 2, 15) if kind in DATA else 4
        self.rect(x, y, width, height, *KINDS[kind], rx=rx)
        self.label(x + width / 2, y + height / 2 + 4.5 - LINE * text.count("|") / 2, text, "middle")
        if after is not None:
            self.down(x + width / 2, after, y, kind if kind in DATA else "plain")

    def arrow(self, *points, kind="plain", both=False, dashed=False):
        """A line through the points, with a head at its end or, of two points, at both."""
        stroke, dash = KINDS[kind][1], ' stroke-dasharray="4 3"' if dashed else ""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" stroke="{stroke}"{dash}/>')
        for (x0, y0), (x, y) in [points[-2:], points[1::-1]][: 1 + both]:
            angle = math.atan2(y0 - y, x0 - x)
            wings = [(9 * math.cos(angle + a), 9 * math.sin(angle + a)) for a in (0.4, -0.4)]
            self.polygon([(0, 0), *wings], stroke, x, y)

    def down(self, x, start, end, kind="plain", label=""):
        """An arrow down, with a label to its right."""
        self.arrow((x, start), (x, end), kind=kind)
        if label:
            self.label(x + 8, (start + end) / 2 + 3, label)

    def use(self, name, x, y):
        """What stands in `<defs>` under a name, moved there."""
        self.parts.append(f'<use href="#{name}" x="{x:g}" y="{y:g}"/>')

    def badge(self, x, y, number):
        self.parts.append(f'<circle cx="{x}" cy="{y}" r="10" fill="{WHITE}" stroke="{INK}"/>')
        self.label(x, y + 4.7, f"*{number}*", "middle")

    def beach(self, x, y, kite, *shapes):
        """A picture of 84 units: a beach with a kite and more shapes; without a colour its mask."""
        for fill, top in BEACH if kite else [("#000000", 0)]:
            self.rect(x, y + top, 84, 84 - top, fill)
        for fill, points in [(kite or WHITE, KITE), *shapes]:
            self.polygon(points, fill, x, y)

    def svg(self) -> str:
        height = round(self.height * SHOWN / WIDTH)
        size = f'width="{SHOWN}" height="{height}" viewBox="0 0 {WIDTH} {self.height}"'
        root = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
        return "\n".join([root, *self.parts, "</svg>\n"])


def dar() -> Diagram:
    d = Diagram(656, "The loop of Diffusion Augmented Retrieval")
    d.box(34, 8, 318, 48, "plain", "*the dialogue, rounds 0 to* $t$|caption, questions, answers")
    refined = "*a language model refines*|one caption of all that was said"
    d.box(34, 78, 318, 48, "frozen", refined, after=56)
    d.box(34, 148, 150, 48, "text", "*caption*|of round $t$", after=126)
    d.arrow((184, 172), (202, 172), kind="text")
    d.box(202, 148, 150, 48, "frozen", "*a diffusion model*|*draws* it from noise")
    d.box(202, 218, 150, 30, "view", "*view*", after=196)
    d.down(109, 196, 272, "text")
    d.down(277, 248, 272, "view")
    d.box(34, 272, 318, 48, "frozen", "*a dual encoder encodes*|both, as unit vectors")
    for x, kind, name, weight in ((109, "text", "$z^T$", "$w_T$"), (277, "view", "$z^D$", "$w_I$")):
        d.box(x - 75, 342, 150, 30, kind, f"{kind} {name}", after=320)
        d.down(x, 372, 408, kind, f"times {weight}")
    weights = "rounds 0 and 1: $w_T = 0.8$, $w_I = 0.2$|from round 2 on: $w_T = w_I = 0.5$"
    d.box(34, 408, 318, 82, "query", f"*query* $z = normalize(w_T z^T + w_I z^D)$|{weights}")
    ranked = "*the gallery, ranked*|by $⟨z, v_j⟩$, with $v_j$ the feature of picture $j$"
    d.box(34, 512, 318, 48, "target", ranked, after=490)
    asked = "*Is the target among the best?*|If not: question and answer of round $t + 1$"
    d.box(34, 582, 318, 48, "plain", asked, after=560)
    d.arrow((34, 606), (14, 606), (14, 32), (34, 32))
    d.label(193, 648, "The three models stay as they are.", "middle")
    return d


def adafuse() -> Diagram:
    d = Diagram(596, "ADaFuSE: a gate, a router and experts")
    for x, left, outer, kind, name in ((105, 8, 20, "text", "T"), (255, 192, 340, "view", "D")):
        d.box(left, 8, 160, 30, kind, f"{kind} $z^{name}$")
        d.down(x, 38, 60, kind)
        d.box(x - 69, 60, 138, 48, "trained", f"projection $P_{name}$|GELU, drop")
        d.down(x, 108, 136, kind, f"$h^{name}$")
        d.down(outer, 38, 446, kind)
    d.box(36, 136, 288, 30, "plain", "$h = [h^T; h^D]$")
    d.box(36, 190, 88, 84, "trained", "*gate*|$W_1$|GELU, drop|$W_2$, $σ$", after=166)
    d.box(136, 190, 88, 84, "trained", "*router*|$R_1$|GELU|$R_2$, softmax", after=166)
    d.box(236, 190, 88, 84, "trained", "*experts*|$A_1$ … $A_K$|GELU, drop|$K = 4$", after=166)
    d.down(180, 274, 306, label="$π_k$")
    d.down(280, 274, 306, label="$E_k$")
    d.box(160, 306, 164, 48, "plain", "mixture|$Σ_k π_k E_k(h)$")
    d.box(160, 376, 164, 30, "trained", "$W_{out}$, drop", after=354)
    d.down(242, 406, 446, label="residual $r$")
    d.down(80, 274, 446, label="weight $λ$")
    d.box(8, 446, 344, 48, "plain", "*gated sum and residual*|$λ z^T + (1 − λ) z^D + r$")
    d.box(8, 516, 344, 30, "query", "*query* $z$, scaled to length 1", after=494)
    d.rect(20, 560, 12, 12, *KINDS["trained"], rx=2)
    d.label(38, 571, "trained; the encoder before it is frozen|drop: dropout, probability 0.2")
    return d


def nrgr() -> Diagram:
    d = Diagram(604, "NRGR: a gate for each dimension of what the view adds to the text")
    d.box(8, 8, 160, 30, "text", "text $z^T$, the anchor")
    d.box(192, 8, 160, 30, "view", "view $z^D$")
    d.box(84, 62, 268, 48, "view", "*residual*, orthogonal to text|$δ = z^D − ⟨z^T, z^D⟩ z^T$")
    d.box(36, 138, 288, 30, "plain", "$u = [z^T; δ]$")
    router = "*router*|$2d → max(d, 256)$|$→ K$, softmax"
    experts = "*experts*, $K = 8$|$2d → 4d → d$|last bias from −2"
    for x, name, lines in ((36, "$π_k$", router), (186, "$E_k$", experts)):
        d.box(x, 192, 138, 66, "trained", lines, after=168)
        d.down(x + 69, 258, 290, label=name)
    d.box(36, 290, 288, 48, "plain", "*gate* of each dimension|$a = σ(Σ_k π_k(u) E_k(u))$")
    d.box(140, 362, 212, 30, "view", "what enters: $a ⊙ δ$")
    d.down(230, 338, 362)
    d.arrow((20, 153), (36, 153), kind="text")
    for x, start, end in ((272, 38, 62), (180, 110, 138), (340, 110, 362), (246, 392, 416)):
        d.down(x, start, end, "view")
    d.down(130, 38, 62, "text")
    d.down(20, 38, 416, "text")
    d.box(8, 416, 344, 48, "plain", "*text and gated residual*|$z^T + a ⊙ δ$")
    d.box(8, 486, 344, 30, "query", "*query* $z$, scaled to length 1", after=464)
    d.rect(20, 532, 12, 12, *KINDS["trained"], rx=2)
    blocks = "router and experts: layer norm, linear,|GELU, dropout, layer norm, linear|"
    d.label(38, 543, f"trained; the encoder before it is frozen|{blocks}$d$: length of features")
    return d


def dmcl() -> Diagram:
    d = Diagram(636, "The five terms of DMCL")
    shares = ((12, 66, 26, 9), (24, 22, 58, 9))
    for side, kind, name in ((0, "text", "T"), (1, "view", "D")):
        def at(x, y, side=side):  # the right half mirrors the left
            return (WIDTH - x if side else x), y

        d.box(8 + 234 * side, 12, 110, 34, kind, f"*{kind}* $z^{name}$")
        d.arrow(at(50, 46), at(125, 218), both=True, kind=kind)
        d.badge(*at(84, 124), 1 + side)
        d.arrow(at(92, 46), at(140, 112), dashed=True)
        d.arrow(at(16, 46), at(16, 340), at(34, 340), kind=kind, dashed=True)
        d.arrow(at(150, 246), at(114, 322), dashed=True)
        for number, share in enumerate(shares[side]):
            d.rect(46 + 180 * side + 24 * number, 372 - share, 16, share, KINDS[kind][1])
        d.rect(40 + 180 * side, 372, 100, 1.5, INK)
        d.label(90 + 180 * side, 390, f"$softmax(s z^{name} z^{{*⊤}})$", "middle")
    d.box(125, 112, 110, 34, "query", "*sum* $z^F$")
    d.box(125, 212, 110, 34, "target", "*target* $z^*$")
    d.arrow((118, 29), (242, 29), both=True)
    d.arrow((180, 146), (180, 212), both=True, kind="query")
    d.arrow((146, 340), (214, 340), both=True)
    d.label(180, 410, "shares of all targets of the batch", "middle")
    rows = [(20, 437 + 25 * number, number) for number in range(1, 6)]
    for place in ((180, 179, 3), (180, 29, 4), (180, 340, 5), *rows):
        d.badge(*place)
    names = "`text_target`|`view_target`|`fused_target`|`text_view`|`agreement`"
    weights = "$w_T = 1$|$w_D = 1$|$w_F = 1$|$w_S = 0.5$|$w_J = 0.2$"
    nearer = "text and target|view and target|sum and target|text and view|the two rankings"
    d.label(40, 442, f"*term*|{names}", step=25)
    d.label(150, 442, f"*weight*|{weights}", step=25)
    d.label(222, 442, f"*brings nearer*|{nearer}", step=25)
    loss = "loss: the weighted mean; the weights sum to 3.7|dashed: what is computed from what"
    d.label(10, 594, f"1 to 4: InfoNCE; 5: Jensen–Shannon divergence|{loss}")
    return d


def world() -> Diagram:
    d = Diagram(674, "The embedded world: all is made from the facts of a scene")
    d.box(80, 8, 200, 30, "plain", "seed, split and number $i$")
    scene = "*scene*|place, time, weather; one to four objects|of a category, size, cell and colour"
    d.box(8, 60, 344, 66, "target", scene, after=38)
    pictures = ((GREEN, SAILBOAT, "*picture*"), ("", [], "*masks*"),
                (RED, SAILBOAT, "*counterfactual*:|one fact changed"))  # fmt: skip
    for number, (kite, shapes, lines) in enumerate(pictures):
        y = 150 + 126 * number
        d.arrow((16, 124), (16, y + 42), (32, y + 42))
        d.beach(32, y, kite, *shapes)
        d.label(74, y + 102, lines, "middle")
    facts = "*facts*|(kite, colour, green)|(people, present, no)"
    d.box(152, 150, 200, 65, "target", facts, after=126)
    dialogue = "*dialogue*|a caption, ten questions;|five sources: human, terse,"
    d.box(152, 239, 200, 99, "text", f"{dialogue}|verbose, degenerate,|unreliable", after=215)
    d.box(152, 362, 200, 48, "target", "*facts stated* so far,|kept for every round", after=338)
    d.box(152, 434, 92, 48, "text", "*refined*|caption", after=410)
    d.box(260, 434, 92, 48, "frozen", "*ideal*|*generator*", after=410)
    d.down(306, 482, 506, "view")
    d.beach(264, 506, GREEN, *UMBRELLA)
    view = "*controlled view*|shows what is stated,|invents the rest,|breaks a chosen share"
    d.label(254, 542, view, "end")
    d.label(8, 626, "*The facts of a scene decide its split:*")
    for number, name in enumerate(("train 60%", "val 20%", "test 20%", "heldout")):
        d.box(8 + 87 * number, 636, 83, 30, "plain", name)
    return d


def data_flow() -> Diagram:
    d = Diagram(806, "How data flows through the library, and which module takes which step")
    d.box(8, 8, 344, 48, "plain", "a folder of your own: `data/`|or the embedded world: `scenes/`")
    d.box(8, 78, 100, 30, "text", "dialogue", after=56)
    d.box(252, 78, 100, 30, "target", "gallery", after=56)
    d.box(8, 150, 100, 30, "text", "text")
    d.down(58, 108, 150, "text", "`models/` refines")
    d.arrow((108, 165), (180, 165), (180, 212), kind="view")
    d.label(188, 186, "`models/`|draws")
    d.box(130, 212, 100, 30, "view", "view")
    columns = ((58, 180, "text", "text $z^T$"), (180, 242, "view", "view $z^D$"),
               (302, 108, "target", "pictures $v_j$"))  # fmt: skip
    for x, start, kind, name in columns:
        d.down(x, start, 264, kind)
        d.box(x - 50, 316, 100, 30, kind, name, after=294)
        d.down(x, 346, 452 if kind == "target" else 384, kind)
    d.box(8, 264, 344, 30, "frozen", "`models/` encodes, as unit vectors")
    d.label(119, 369, "`fusion.py`", "middle")
    d.box(8, 384, 222, 30, "query", "query $z$")
    steps = (("ranks of the targets", "retrieval.py"), ("metrics with intervals", "metrics.py"),
             ("table of results", "evaluation.py"), ("figure", "book/"))  # fmt: skip
    for number, (name, module) in enumerate(steps):
        y = 452 + 68 * number
        d.down(180 if number else 119, y - 38, y, "query", f"`{module}`")
        d.box(8, y, 344, 30, "query", name)
    d.label(8, 714, "`recipes/`|`objectives.py`|`studies/`|`analysis/`|`cli/`", step=20)
    d.label(118, 714, "trains models and fusions|the losses of training|measures whole benchmarks|"
            "looks into features|the command `daitir`", step=20)  # fmt: skip
    return d


ROUTES = {"S": "text", "L": "view", "R": "query"}  # a student's, a lecturer's, a researcher's
FULL, HALVES, THIRDS = (24, 312), ((24, 150), (186, 150)), ((24, 94), (133, 94), (242, 94))
CHAPTERS = {  # place, height, words and routes of a chapter, by its file's name without the number
    "welcome": (*FULL, 32, "*0* Welcome", "SL"),
    "interactive_retrieval": (*FULL, 78, "*1* Interactive retrieval", "SL"),
    "dual_encoders": (*FULL, 124, "*2* Dual encoders", "L"),
    "diffusion": (*FULL, 170, "*3* Diffusion in one sitting", ""),
    "dar": (*FULL, 216, "*4* Diffusion Augmented Retrieval", "SL"),
    "measuring": (*FULL, 262, "*5* Measuring interactive retrieval", "SLR"),
    "hallucination": (*FULL, 344, "*6* Hallucination, cue by cue", "L"),
    "adafuse": (*HALVES[0], 396, "*7* ADaFuSE|from an empty cell", "R"),
    "what_adafuse_learned": (*HALVES[0], 466, "*8* What ADaFuSE|learned", ""),
    "dmcl_objective": (*HALVES[1], 396, "*9* The objective|of DMCL", ""),
    "dmcl": (*HALVES[1], 466, "*10* Training|the encoder", "R"),
    "attention": (*THIRDS[0], 566, "*11* Where|it looks", ""),
    "embedding_geometry": (*THIRDS[1], 566, "*12* Shape|of a space", ""),
    "null_space": (*THIRDS[2], 566, "*13* The null|space", "R"),
    "not_there": (*THIRDS[0], 666, "*14* Not there,|not that", ""),
    "your_own_pictures": (*THIRDS[1], 666, "*15* Your own|pictures", ""),
    "the_papers_setting": (*THIRDS[2], 666, "*16* Papers'|setting", "R"),
}
BUILDS_ON = {  # each chapter on those named, and on what these build on
    "interactive_retrieval": ["welcome"], "dual_encoders": ["interactive_retrieval"],
    "diffusion": ["dual_encoders"], "dar": ["diffusion"], "measuring": ["dar"],
    "hallucination": ["measuring"], "adafuse": ["hallucination"],
    "what_adafuse_learned": ["adafuse"], "dmcl_objective": ["hallucination"],
    "dmcl": ["adafuse", "dmcl_objective"], "attention": ["hallucination"],
    "embedding_geometry": ["attention"], "null_space": ["embedding_geometry"],
    "not_there": ["measuring"], "your_own_pictures": ["measuring"],
    "the_papers_setting": ["your_own_pictures"],
}  # fmt: skip
AROUND = {  # corners of arrows that are no straight line from box to box
    ("hallucination", "attention"): ((24, 359), (14, 359), (14, 590), (24, 590)),
    ("adafuse", "dmcl"): ((150, 444), (150, 455), (226, 455), (226, 466)),
    ("measuring", "not_there"): ((336, 277), (346, 277), (346, 651), (100, 651), (100, 666)),
    ("measuring", "your_own_pictures"): ((180, 651), (180, 666)),
}


def chapter_map() -> Diagram:
    d = Diagram(806, "A map of the chapters")
    parts = (("Foundations", 4, 296), ("Methods", 308, 214), ("Looking inside", 530, 92),
             ("In use", 630, 92))  # fmt: skip
    for name, y, height in parts:
        d.rect(4, y, 352, height, KINDS["frozen"][0], rx=6)
        d.label(24, y + 19, f"*{name}*")
    d.parts.append("<defs>")
    for letter, kind in ROUTES.items():
        fill, stroke = KINDS[kind]
        d.parts.append(f'<g id="{letter}"><circle r="8.5" fill="{fill}" stroke="{stroke}"/>')
        d.label(0, 4.3, f"*{letter}*", "middle")
        d.parts.append("</g>")
    d.parts.append("</defs>")
    for name, (x, width, y, words, routes) in CHAPTERS.items():
        d.rect(x, y, width, 30 + LINE * words.count("|"), *KINDS["plain"], rx=4)
        d.label(x + 8, y + 19.5, words)
        for number, letter in enumerate(reversed(routes)):
            d.use(letter, x + width - 14 - 21 * number, y + 15 + LINE * (width == THIRDS[0][1]))
        for before in BUILDS_ON.get(name, []):
            d.arrow(*AROUND.get((before, name), straight(CHAPTERS[before], CHAPTERS[name])))
    words = ("a student: half a day, to a measured gain", "a lecturer: a lesson of 210 minutes",
             "a researcher: the claims, and what holds")  # fmt: skip
    for y, letter, route in zip((747, 770, 793), ROUTES, words, strict=True):
        d.use(letter, 18, y - 4)
        d.label(34, y, route)
    return d


def straight(before, after):
    """From the middle of a box's side to the next box, below it or to its right."""
    (x, width, y, words, _), (to_x, _, to_y, *_) = before, after
    height = 30 + LINE * words.count("|")
    if y == to_y:
        return (x + width, y + height / 2), (to_x, y + height / 2)
    middle = max(x, to_x) + min(width, after[1]) / 2
    return (middle, y + height), (middle, to_y)


DIAGRAMS = (dar, adafuse, nrgr, dmcl, world, data_flow, chapter_map)

if __name__ == "__main__":
    for draw in DIAGRAMS:
        (FOLDER / f"{draw.__name__}.svg").write_text(draw().svg(), "utf-8")
