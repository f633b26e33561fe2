from services.inference.models.servable import Servable
from services.inference.models.warm import Place, WarmShelf


def servable(version: int) -> Servable:
    """Return a servable that answers nothing."""
    return Servable(version, 0, (), 0, 0.0, None)


def test_shelf_keeps_one_servable_in_each_place_until_its_time_is_over() -> None:
    clock = [0.0]
    shelf = WarmShelf(lambda: clock[0])
    shelf.keep(Place.FORMER, servable(1), 20)
    shelf.keep(Place.PREPARED, servable(2), 10)
    shelf.keep(Place.PREPARED, servable(3), 10)
    assert shelf.versions == (1, 3)
    clock[0] = 11
    assert shelf.get(3) is None
    assert shelf.get(1) is not None


def test_servable_without_a_model_and_one_for_no_time_are_not_kept() -> None:
    shelf = WarmShelf()
    shelf.keep(Place.FORMER, servable(0), 10)
    shelf.keep(Place.PREPARED, servable(1), 0)
    assert shelf.versions == ()
