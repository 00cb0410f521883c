"""Lists the modules that qmill imports by name, which PyInstaller cannot find itself."""

from PyInstaller.utils.hooks import collect_submodules

_LEFT_OUT = ("qmill._pyinstaller", "qmill.testing")

hiddenimports = collect_submodules("qmill", lambda name: not name.startswith(_LEFT_OUT))
