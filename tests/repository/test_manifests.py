import pytest

from services.repository.errors import DamagedVersion
from services.repository.manifests import read_checksums


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "..", ".", "", "a/b"])
def test_manifest_cannot_name_a_file_outside_its_version(name: str) -> None:
    with pytest.raises(DamagedVersion, match="no name of a file"):
        read_checksums(1, f'{{"files": [{{"path": "{name}"}}]}}'.encode())
