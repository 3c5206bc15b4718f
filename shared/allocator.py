"""What the C library does with memory that was freed, for processes that make large vectors again and again.

glibc gives freed memory back to the system above a bound that it moves by itself, and which two vectors of a
model pass at once. Each round then pays for zeroed pages anew: to encode 199,210 parameters took 1.7 ms, and
takes 0.7 when some megabytes stay.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT_BYTES_MAX = 8 << 20


def keep_freed(bytes_max: int = KEPT_BYTES_MAX) -> bool:
    """Keep up to so many freed bytes at the end of each heap. False: another C library, nothing changed."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, bytes_max)) and bool(mallopt(_M_MMAP_THRESHOLD, bytes_max // 2))
