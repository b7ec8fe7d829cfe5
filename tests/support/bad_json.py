"""Contents that no JSON object of ours is, by what is wrong with them, and what is said of each."""

NO_OBJECTS = {
    "nothing": (b"", "expected a JSON object, got ''"),
    "a list": (b"[]", "expected a JSON object, got '[]'"),
    "null": (b"null", "expected a JSON object, got 'null'"),
    "a number": (b"3", "expected a JSON object, got '3'"),
    "a text": (b'"x"', "expected a JSON object, got '\"x\"'"),
    "cut off": (b'{"epoch": 1, "se', "Unterminated string"),
    "lists of lists": (b"[" * 100_000, "more than 64 levels"),
    "objects of objects": (b'{"a":' * 100_000, "more than 64 levels"),
    "closed lists of lists": (b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", "more than 64 levels"),
    "no UTF-8": (b'{"data": "\xff\xfe"}', "codec can't decode"),
    "NaN": (b'{"epoch": NaN}', "NaN is no JSON number"),
    "infinity": (b'{"epoch": -Infinity}', "-Infinity is no JSON number"),
    "too large a number": (b'{"epoch": 1e999}', "1e999 is no finite number"),
    "100 digits": (b'{"epoch": ' + b"9" * 100 + b"}", "more digits than an integer of 64 bits"),
    "5000 digits": (b'{"epoch": ' + b"9" * 5000 + b"}", "an integer of too many digits"),
    "a key twice": (b'{"epoch": 1, "epoch": 2}', "the key 'epoch' is there twice"),
    "zeros": (b"\0" * 40, "expected a JSON object, got "),
}
