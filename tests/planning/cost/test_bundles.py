"""Bundles of instructions, from hand-written files like those of libtpu."""

from maskrcnn_jax.planning import hlo
from maskrcnn_jax.planning.cost import bundles

WINDOW = '{"window_config":{"estimated_cycles":"%d","iteration_bounds":["1","9","2"]},"other":{}}'
TEXT = f"""
ENTRY %main (a: f32[8]) -> f32[8] {{
  %a = f32[8]{{0}} parameter(0)
  %copy.1 = f32[8]{{0}} copy(%a), backend_config={WINDOW % 70}
  %copy.2 = f32[8]{{0}} copy(%copy.1), backend_config={WINDOW % 70}
  %copy.3 = f32[8]{{0}} copy(%copy.2), backend_config={WINDOW % 80}
  ROOT %sort = f32[8]{{0}} sort(%copy.3), dimensions={{0}}
}}
"""


def test_bundles_of_equal_instructions_are_equal(tmp_path):
    for name, count in (("copy.1", 5), ("copy.10", 6), ("<late-finalization>", 7)):
        path = tmp_path / f"1796009613-{name}-71-schedule-analysis_final_bundles.txt"
        path.write_text(f"total scheduled bundles: 99\n\tnon empty scheduled bundles: {count}\n")
    (tmp_path / "1796009613-copy.3-72-final_bundles.txt").write_text("of another pass")
    found = bundles.read_dump(tmp_path, hlo.parse(TEXT))
    assert found == {"copy.1": 5, "copy.2": 5}  # libtpu compiles equal ones once.


def test_without_files_nothing_is_known():
    assert bundles.read_dump(None, hlo.parse(TEXT)) == {}


def test_iterations():
    program = hlo.parse(TEXT)
    assert bundles.iterations(program.instructions["copy.1"]) == 18
    assert bundles.iterations(program.instructions["sort"]) is None
