// pyodide.mjs PROJECT PACKAGES SCRIPT: run a Python script in Pyodide, CPython in WebAssembly, with the folders PROJECT at
// /mnt/project and PACKAGES at /mnt/packages, and PYTHONPATH as it is outside.
// Run by node, in the folder where npm installed pyodide or with that folder in $PYODIDE.
import { createRequire } from "node:module";

const [project, packages, script] = process.argv.slice(2);
const { loadPyodide } = createRequire(process.env.PYODIDE + "/")("pyodide");
const { PYTHONPATH = "" } = process.env;
const pyodide = await loadPyodide({ env: { HOME: "/home", PYTHONPATH, PYTHONDONTWRITEBYTECODE: "1" } });
pyodide.mountNodeFS("/mnt/project", project);
pyodide.mountNodeFS("/mnt/packages", packages);
pyodide.globals.set("script", script);
try {
  // When Python started, PYTHONPATH's folders were not there yet, and it remembers that.
  pyodide.runPython(`import importlib, runpy; importlib.invalidate_caches(); runpy.run_path(script, run_name="__main__")`);
} catch (error) {
  console.error(error.message); // uncaught, node would print all of Pyodide's source with it
  process.exitCode = 1;
}
