"""Scans the server's TLS with sslyze. Prints each check that passes; stops at the first failure.

    tls.py BINARY
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from sslyze import Scanner, ServerNetworkLocation, ServerScanRequest
from sslyze.errors import ServerHostnameCouldNotBeResolved

OLD_VERSIONS = ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1")


def certificate(directory):
    pair = (f"{directory}/server.pem", f"{directory}/server.key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out", pair[0], "-keyout", pair[1]],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return ":".join(pair)


def scan(port):
    scanner = Scanner()
    try:
        location = ServerNetworkLocation(hostname="localhost", port=port, ip_address="127.0.0.1")
    except ServerHostnameCouldNotBeResolved as error:
        sys.exit(f"localhost: {error}")
    scanner.queue_scans([ServerScanRequest(server_location=location)])
    result = next(iter(scanner.get_results()))
    assert result.scan_result is not None, result.connectivity_error_trace
    return result.scan_result


def value(result, command):
    attempt = getattr(result, command)
    assert attempt.result is not None, f"{command}: {attempt.error_reason} {attempt.error_trace}"
    return attempt.result


def main():
    binary = sys.argv[1]
    with tempfile.TemporaryDirectory() as directory:
        command = [binary, "serve", "--listen", "127.0.0.1:0", "--cores", "0", "--store", "memory"]
        command += ["--tls-listen", "127.0.0.1:0", "--tls-certificates", certificate(Path(directory))]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            line = next(line for line in server.stderr if "tls_listen=" in line)
            check(scan(int(re.search(r"tls_listen=127\.0\.0\.1:(\d+)", line)[1])))
        finally:
            server.terminate()
            assert server.wait(timeout=60) == 0


def check(result):
    for version in OLD_VERSIONS:
        accepted = value(result, f"{version}_cipher_suites").accepted_cipher_suites
        assert not accepted, f"{version}: {accepted}"
    print("SSL 2 to TLS 1.1 are refused")
    for version in ("tls_1_2", "tls_1_3"):
        suites = [one.cipher_suite.name for one in value(result, f"{version}_cipher_suites").accepted_cipher_suites]
        assert suites, f"{version} is refused"
        for suite in suites:
            assert "GCM" in suite or "CHACHA20" in suite, f"{version}: {suite} has no authenticated encryption"
            assert version == "tls_1_3" or suite.startswith("TLS_ECDHE_"), f"{suite} has no forward secrecy"
    print("TLS 1.2 and 1.3 are accepted, with authenticated encryption and forward secrecy only")
    assert not value(result, "tls_compression").supports_compression
    assert not value(result, "tls_1_3_early_data").supports_early_data
    assert not value(result, "heartbleed").is_vulnerable_to_heartbleed
    assert not value(result, "openssl_ccs_injection").is_vulnerable_to_ccs_injection
    assert value(result, "robot").robot_result.name.startswith("NOT_VULNERABLE")
    renegotiation = value(result, "session_renegotiation")
    assert not renegotiation.is_vulnerable_to_client_renegotiation_dos
    resumption = value(result, "session_resumption")
    for kind in ("session_id_resumption_result", "tls_ticket_resumption_result"):
        assert getattr(resumption, kind).name == "NOT_SUPPORTED", kind
    print("no compression, early data, renegotiation or resumption, and none of the known attacks")


if __name__ == "__main__":
    main()
