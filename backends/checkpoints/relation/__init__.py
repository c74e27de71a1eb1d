"""One tensor held against another of its name, for audits and round trips: facts, and words for them."""

from backends.checkpoints.relation.damage import damage as damage
from backends.checkpoints.relation.eight_bits import eight_bits as eight_bits
from backends.checkpoints.relation.numbers import bits_equal as bits_equal
from backends.checkpoints.relation.numbers import measure as measure
from backends.checkpoints.relation.numbers import sample as sample
from backends.checkpoints.relation.numbers import values_equal as values_equal
from backends.checkpoints.relation.permutations import chunk_order as chunk_order
from backends.checkpoints.relation.permutations import in_words as in_words
from backends.checkpoints.relation.permutations import row_order as row_order
from backends.checkpoints.relation.relations import CLOSE as CLOSE
from backends.checkpoints.relation.relations import Relation as Relation
from backends.checkpoints.relation.relations import cosine as cosine
from backends.checkpoints.relation.relations import relate as relate
