"""The same steps on many processes or machines: a corpus is cut into parts, which Ray hands to workers.

    from itda import scale

    dictionary = scale.build("path/or/hub-name", corpus, atoms=4096, shards=16, workers=4)

Each takes the fields of `ScaleOptions`; of those only `shards` has an influence on the result. Text and folders must be
where every worker finds them. What is finished stays in the folder that is given: the same call goes on after whatever
stopped it.
"""

from itda.scale.building import build, build_many, build_stored
from itda.scale.options import ScaleOptions
from itda.scale.reading import capture, encode, evaluate

__all__ = ["ScaleOptions", "build", "build_many", "build_stored", "capture", "encode", "evaluate"]
