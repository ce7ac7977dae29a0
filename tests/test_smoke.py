def test_with_takes_and_returns_a_token(Semaphore, name):
    with Semaphore(name, 3) as sem:
        assert sem.value == 2
    assert sem.value == 3
