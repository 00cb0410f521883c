"""Programs that are made by PyInstaller and cx_Freeze; `make test-all` installs these."""
