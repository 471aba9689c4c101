"""Google's Firestore emulator (apt ``google-cloud-cli-firestore-emulator``, and a Java)."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

from testservers import Missing, Server, require

__all__ = ["firestore_emulator"]

INSTALL = "apt-get install google-cloud-cli-firestore-emulator default-jre-headless"
JAR = "/usr/lib/google-cloud-sdk/platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"


def firestore_emulator() -> Server:
    """An emulator, which keeps everything in memory: a stop is a loss, a pause is not.

    KVSESSIONS_FIRESTORE_EMULATOR names its jar where it is not in Google's usual place.
    """
    java = require("java", INSTALL)
    jar = Path(os.environ.get("KVSESSIONS_FIRESTORE_EMULATOR") or JAR)
    if not jar.exists():
        raise Missing(f"{jar} is not installed: {INSTALL}")

    def command(folder: Path, port: int) -> list[str]:
        line = [java, "-Duser.language=en", "-Xmx512m", "-cp", str(jar)]
        line += ["com.google.cloud.datastore.emulator.firestore.CloudFirestore", "start"]
        return [*line, "--host=127.0.0.1", f"--port={port}"]

    return FirestoreEmulator(command, timeout=90)


class FirestoreEmulator(Server):
    def answers(self) -> bool:
        """Whether it has kept a document: its first one takes it seconds, which no client
        is to wait for."""
        document = "v1/projects/first/databases/(default)/documents/first/one"
        first = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{document}",
            data=b"{}",
            headers={"Content-Type": "application/json"},
            method="PATCH",
        )
        try:
            with urllib.request.urlopen(first, timeout=self.timeout) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False
