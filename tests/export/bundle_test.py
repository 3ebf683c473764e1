"""The page's program: ES modules that become one script."""

import re

import pytest

from lovecraft_jax.export.page import bundle


def test_modules_become_one_script_in_the_order_of_their_imports() -> None:
    sources = {
        "main.js": 'import { two } from "./two.js";\nimport {\n  ONE,\n} from "./one.js";\n\ntwo(ONE);\n',
        "two.js": 'import { ONE } from "./one.js";\nexport function two() {\n  return ONE;\n}\n',
        "one.js": "export const ONE = 1;\nconst two_ = 2;\n",
        "unused.js": "export const ONE = 3;\n",
    }
    script = bundle(sources, "main.js")
    assert [line for line in script.splitlines() if line] == [
        *(
            '"use strict";',
            "(() => {",
            "// one.js",
            "const ONE = 1;",
            "const two_ = 2;",
            "// two.js",
            "function two() {",
        ),
        *("  return ONE;", "}", "// main.js", "two(ONE);", "})();"),
    ]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("export const a = 1;\nclass start {}\n", "start is declared in b.js and in a.js"),
        ('import { start } from "./a.js";\nexport const a = 1;\n', "a.js: imports itself by way of b.js"),
        ('import { c } from "./c.js";\nexport const a = 1;\n', "b.js: imports from c.js, which is not there"),
        ("const a = 1;\n", "a.js: imports a, which b.js does not export"),
        ("export const a = 1;\nexport default a;\n", "b.js: the bundler does not understand 'export default a;'"),
        ('import * as c from "./c.js";\nexport const a = 1;\n', "does not understand 'import"),
        ("export const a = 1;\nconst { b } = a;\n", "b.js: destructuring"),
        ("export const a = '</script>';\n", "does not understand '</script'"),
    ],
)
def test_what_the_bundler_does_not_understand_raises(other: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        bundle({"a.js": 'import { a } from "./b.js";\nexport function start() {}\n', "b.js": other}, "a.js")
