from array import array

def send_all(
    data: bytes, keys: array[int], direct: array[int], begin: int, end: int, seconds: float, /
) -> tuple[int, list[tuple[int, int]]]: ...
