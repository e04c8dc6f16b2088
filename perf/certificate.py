"""Creates the certificate of a server on this machine, which clients trust with `--ca`. Needs openssl."""

import pathlib
import subprocess

# Not an authority (CA:FALSE): clients refuse the certificate of an authority as that of a server.
CONFIG = """\
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = localhost
[extensions]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:localhost, IP:127.0.0.1
extendedKeyUsage = serverAuth
"""


def create(directory):
    """Writes cert.pem and key.pem (ECDSA P-256) into the directory, for localhost and 127.0.0.1. Returns both paths."""
    directory = pathlib.Path(directory)
    config, certificate, key = (directory / name for name in ("openssl.cnf", "cert.pem", "key.pem"))
    config.write_text(CONFIG)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    command += ["-config", config, "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
