from scripts.generate_stubs import stale_files


def test_stubs_are_what_the_protos_give() -> None:
    assert stale_files() == []
