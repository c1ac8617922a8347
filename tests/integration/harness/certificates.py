"""An authority, and certificates that it vouches for."""
import subprocess


def openssl(*args, text=None):
    subprocess.run(["openssl", *map(str, args)], input=text, check=True, capture_output=True, text=True)


class Authority:
    """Makes files in a folder: `certificate` of the authority itself, then pairs of certificate and key."""

    def __init__(self, folder, name="authority"):
        self.folder, self.key, self.certificate = folder, folder / f"{name}.key", folder / f"{name}.crt"
        openssl("req", "-new", "-x509", "-newkey", "rsa:2048", "-days", 2, "-nodes", "-subj", f"/CN={name}", "-out", self.certificate,
                "-keyout", self.key)

    @classmethod
    def with_server(cls, folder, *clients):
        """An authority with a pair for the server's end here (`server`), and one for each of these clients, by its name."""
        authority = cls(folder)
        authority.server = authority.issue("localhost", alt="DNS:localhost,IP:127.0.0.1")
        for name in clients:
            setattr(authority, name, authority.issue(name))
        return authority

    def issue(self, name, file=None, alt=None, digest="sha256", kind=("rsa:2048",)):
        """Certificate and key for this common name."""
        path = self.folder / (file or name)
        key, request, certificate, extensions = (path.with_suffix(f".{end}") for end in ("key", "csr", "crt", "ext"))
        openssl("req", "-new", "-newkey", *kind, "-nodes", "-subj", f"/CN={name}", "-out", request, "-keyout", key)
        extensions.write_text(f"subjectAltName={alt or 'DNS:' + name}\n")
        openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial", "-days", 2,
                f"-{digest}", "-extfile", extensions, "-out", certificate)
        key.chmod(0o600)
        return certificate, key
