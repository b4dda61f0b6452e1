"""What both stores have of their segments: old files are read, and a crash in a compaction loses nothing."""

import base64
import zlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from connectors.storage import Folder, StorageOptions
from rmbatch.stores.answers import ResponseCache, key_of
from rmbatch.stores.scores import IDS, VALUES, Keys, ScoreStore, keys_of
from rmbatch.stores.segments import SegmentedStore
from tests.connectors.crashing_store import KilledError, killed_after

OLD_SCORES = {
    "01795906494590742440-b3b43cd1c1e8-caf6132edff1.arrow": (
        "c-nIe3i1y(WMKFY1S=RB7z7wVfQx~TfsKKcfdj|_0!9|NI1i9yfr?K6vw_k;3=-!6k{~$_AUg#r7Y4-9N(P4JmZp{lW+s*<K+4?2"
        "$i&1zH_153#5g&{FxfEGLNBqXD8F1uM*&r-sfDqriKV4(N}8#8a<Zv~S)zprRB0>&*q)-)f}F(U)MAk9n1Of;5LZC$z5w(S&~>6B"
        "K(+#sTQz`~4T#GUb4o!vS-=qFcM+hOYz*vR-v~hc%*YI)WuW>Qpmb(QYA(nWka{+VI))oy`xux&>P3*$gWQ#qU(Rq0DDMEbhXKtV"
        "h(2_CGBVRMAoj3;?Qww0f#OSo5n>MmIQ+$+F~$Qnm4TUsK>|o6Fu(v8kk12;yEzPyxMpTR01gJ+Kmv`%C2oKw592F9=>RnO0J!@R"
        "fCbH63}o<kO$<1=EX9K7&+ZkIo?JTXx=!R;@W<sZu2fGuJb(2a@fh#V-KSI-&uDIbeox)x&4wQ^eN1TPA(?9r#0MA{8th@=&j1ZW"
        "9$+l6fkR#Z>JJtM8)!O%rMVr9&~Sj#2^b+fnzsf+-nszvgd@021OUItmq`"
    ),
    "01795906494590742440-b3b43cd1c1e8.arrow": (
        "c-nIe3i1y(WMKFY1QLu43<3-wz{SABz{bGJzyV|d0V4~L&j93c07(`o$-ux2#9M&40?NMtGy|wuR0POYfQkW)WY7R&HXtrb%qdMR"
        "28pwP<pdZ+fM&5Vu!Bt(fZEN-45DSA`Wc{fW=U!;$P|!zHi$Zg8({kwm_X`9kko_Rm6Ko2a11E#0Jnz$%^rw8bbB%~(=#CUuz>Ax"
        "fXczbM+C~}VGx6c5D(Z?24)rp2_WUc00Ue=J`XswKw&tC0TQ-M3<$u%fEx&)(YVAF(Bxr!2`FuWCT{_EKLW6zxr>1aJ~JAB*TjH>"
        "%Tg?O{_I{c>B*(DuGP~H&tH8<JjVNT_bC;|Gn(k;AnCUU;sXo}4fe2bhWU>N7}{*$5Eg*Cmj&#84dk@N2=zCV_CRyjNKLa2Ku<V="
        "^ELp&iB!M"
    ),
    "01795906494595835499-df57cc586a84.arrow": (
        "c-nIe3i1y(WMKFY1QLu43<3-wz{SABz{bGJzyV|d0V4~L&j93c07(`o$-ux2#9M&40?NMtGy|wuR0POYfQkW)WY7R&HXtrb%qdMR"
        "28pwP<pdZ+fM&5Vu!Bt(fZEN-45DSA`Wc{fW=U!;$P|!zHi$Zg8({kwm_X`9kko_Rm6Ko2a11E#0Jnz$%^rw8bbB%~(=#CUuz>Ax"
        "fXczbM+C~}VGx6c5D(Z?24)rp2_*HPFq8nwut39b4g(}?nHUg&g8?@XK%;SqE1=24_!3as0!`im$*&AZY$h~yg!qhT{9O|R4lYZv"
        ";8`bfE%@W|7gwsM9iG4Xj(E)G=l9f2-fZ}Rt`DJKz!4U{Fn{p?LzxX6vI3B>1-j4znvURU3Tl7?ly*RK&qz(H4nR*hg7Y*0yzNwW"
    ),
}
"""Segments that commit 79a67b9 wrote, compressed: one that was merged, and the two in it, as a crash leaves them."""

OLD_ANSWERS = (
    'fb2d8077aac504a09960490f480ead33\t{"body":{"text":"nö 0"}}\n'
    'ed6576411d3bbfd0dccd303121e51255\t{"body":{"text":"nö 1"}}\n'
)
"""The same of answers, for the requests 0 and 1."""


def score_keys(*numbers: int) -> Keys:
    return keys_of(pa.array([[number] for number in numbers], IDS))


def answer_key(n: int) -> bytes:
    return key_of("s", b"%d" % n)


def test_reads_scores_of_the_first_version(folder: Folder) -> None:
    for name, text in OLD_SCORES.items():
        folder.folder("f").write(name, zlib.decompress(base64.b85decode(text)))
    store = ScoreStore.open(folder.url, folder.options, "f", {})
    expected = [[1.0], [0.5, -2.0], [], None]
    assert store.find(score_keys(1, 2, 3, 4)).to_pylist() == expected
    assert store.compact() == 2
    assert store.find(score_keys(1, 2, 3, 4)).to_pylist() == expected
    assert [entry.name for entry in folder.folder("f").entries()] == [min(OLD_SCORES)]


def test_reads_answers_of_the_first_version(folder: Folder) -> None:
    folder.folder("m-1e53e984b63e").write("01795906462011265296-b8b878adde60.answers", OLD_ANSWERS.encode())
    cache = ResponseCache.open(folder.url, folder.options, service="s", model="m")
    assert [cache.find(answer_key(n)) for n in range(3)] == [
        {"body": {"text": "nö 0"}},
        {"body": {"text": "nö 1"}},
        None,
    ]


def add_score(folder: Folder, number: int) -> ScoreStore:
    store = ScoreStore(folder, {})
    store.add(score_keys(number, 100), pa.array([[float(number)], [float(number)]], VALUES))
    store.flush()
    return store


def add_answer(folder: Folder, number: int) -> ResponseCache:
    cache = ResponseCache(folder, {})
    cache.add(answer_key(number), {"n": number})
    cache.flush()
    return cache


def find_scores(folder: Folder) -> Any:
    return ScoreStore(folder, {}).find(score_keys(0, 1, 2, 100)).to_pylist()


def find_answers(folder: Folder) -> Any:
    return [ResponseCache(folder, {}).find(answer_key(n)) for n in range(3)]


@pytest.mark.parametrize("number", range(1, 7))
@pytest.mark.parametrize(("add", "find"), [(add_score, find_scores), (add_answer, find_answers)])
def test_crash_anywhere_in_a_compaction_loses_nothing(
    add: Callable[[Folder, int], SegmentedStore[Any]], find: Callable[[Folder], Any], number: int
) -> None:
    folder = Folder.open(f"memory://crash-{number}-{add.__name__}", StorageOptions())
    for n in range(3):
        store = add(folder, n)
    expected = find(folder)
    assert None not in expected
    with killed_after(folder, number) as changes:  # the merged segment, then each that is in it
        try:
            assert store._compact() == 2
            assert changes.number < number
        except KilledError:
            pass
    assert find(folder) == expected
    add(folder, 0)._compact()
    assert len([entry for entry in folder.entries() if entry.name.endswith(store.SUFFIX)]) == 1
    assert find(folder) == expected
    folder.remove("")
