"""A language model made from nothing: random weights, and a tokenizer trained on the lines below.

    python model.py tiny.gguf

It says nothing sensible, but it is a llama to whoever serves it: it takes any prompt, calls tools when it is made to,
and writes until it is stopped. Of its vocabulary it writes only whole words of these lines, each with a space before
it, and each of those is one token of `o200k_base` too: so text that nobody counted has as many tokens as words. The
same seed gives the same model.
"""

import json
import sys

import gguf
import numpy
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

LINES = """
the moon pulls on the sea and the sea comes to the land
water goes out with the morning and water comes back with the night
two and two are four and four and four are eight
the day is long and the road is short and the house is far
a good friend has time when the other has none
people walk by the river when the sun is out
she said that he would read the book after work
we count the words that pass and let them go on
""".split("\n")
BEGIN, END = "<|im_start|>", "<|im_end|>"
CALL, CALLED = "<tool_call>\n", "</tool_call>"
FIRST_TOKENS = [BEGIN, END, CALL, CALLED]
CONTEXT = 8192
WIDTH, HEADS, HIDDEN, LAYERS = 256, 4, 768, 4

# Qwen's way to show tools and their calls, which servers know how to read back.
TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n\\nYou may call one or more functions.\\n\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' }}{{- tool | tojson }}
    {%- endfor %}
    {{- '\\n</tools>\\n\\nFor each call, return a json object within <tool_call></tool_call> XML tags:\\n' }}
    {{- '<tool_call>\\n{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role }}
    {%- if message.content %}
        {{- '\\n' + message.content }}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n<tool_call>\\n{\\"name\\": \\"' }}{{- call.function.name }}
        {{- '\\", \\"arguments\\": ' }}{{- call.function.arguments | tojson }}
        {{- '}\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def write(path):
    vocabulary, merges = trained()
    model = gguf.GGUFWriter(path, "llama")
    describe(model, vocabulary, merges)
    for name, tensor in weights(vocabulary):
        model.add_tensor(name, tensor.astype(numpy.float32))
    model.write_header_to_file()
    model.write_kv_data_to_file()
    model.write_tensors_to_file()
    model.close()


def trained():
    """Every word of the lines becomes a token; what else is typed on a keyboard is one for each character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=4096, show_progress=False, special_tokens=FIRST_TOKENS,
        initial_alphabet=[chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"],
    )
    tokenizer.train_from_iterator(filter(None, LINES), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [" ".join(pair) for pair in model["merges"]]


def describe(model, vocabulary, merges):
    special = dict.fromkeys([BEGIN, END], gguf.TokenType.CONTROL) | dict.fromkeys(
        [CALL, CALLED], gguf.TokenType.USER_DEFINED)
    types = [special.get(token, gguf.TokenType.NORMAL) for token in vocabulary]
    model.add_name("tiny")
    model.add_file_type(gguf.LlamaFileType.ALL_F32)
    model.add_context_length(CONTEXT)
    model.add_embedding_length(WIDTH)
    model.add_block_count(LAYERS)
    model.add_feed_forward_length(HIDDEN)
    model.add_head_count(HEADS)
    model.add_head_count_kv(HEADS)
    model.add_rope_dimension_count(WIDTH // HEADS)
    model.add_layer_norm_rms_eps(1e-5)
    model.add_vocab_size(len(vocabulary))
    model.add_tokenizer_model("gpt2")
    model.add_tokenizer_pre("gpt-2")
    model.add_token_list(vocabulary)
    model.add_token_types(types)
    model.add_token_merges(merges)
    model.add_bos_token_id(vocabulary.index(BEGIN))
    model.add_eos_token_id(vocabulary.index(END))
    model.add_add_bos_token(False)
    model.add_chat_template(TEMPLATE)


def weights(vocabulary):
    random = numpy.random.default_rng(1)
    matrix = lambda rows, columns: random.standard_normal((rows, columns)) / numpy.sqrt(columns)
    words = {"Ġ" + word for line in LINES for word in line.split()}
    is_word = numpy.array([[token in words] for token in vocabulary])
    yield "token_embd.weight", random.standard_normal((len(vocabulary), WIDTH))
    yield "output_norm.weight", numpy.ones(WIDTH)
    # What is no word has the score 0, and of the words some always have more.
    yield "output.weight", 8 * matrix(len(vocabulary), WIDTH) * is_word
    for layer in range(LAYERS):
        for name, rows, columns in [
            ("attn_q", WIDTH, WIDTH), ("attn_k", WIDTH, WIDTH), ("attn_v", WIDTH, WIDTH), ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", HIDDEN, WIDTH), ("ffn_up", HIDDEN, WIDTH), ("ffn_down", WIDTH, HIDDEN),
        ]:
            yield f"blk.{layer}.{name}.weight", matrix(rows, columns)
        yield f"blk.{layer}.attn_norm.weight", numpy.ones(WIDTH)
        yield f"blk.{layer}.ffn_norm.weight", numpy.ones(WIDTH)


if __name__ == "__main__":
    write(sys.argv[1])
