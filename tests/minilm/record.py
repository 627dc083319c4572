"""Writes reference.json: what all-MiniLM-L6-v2 says of a few sentences, by transformers on the CPU in float32.

    python3 examples/minilm/fetch.py && pip install torch transformers && python tests/minilm/record.py

Pooling and normalisation are those of the model card: the mean over the tokens that are no padding, divided by its
length. What ran is written beside the values.
"""

import json
import pathlib
import platform

import torch
import transformers

SENTENCES = [
    "The cat drank the milk because it was thirsty.",
    "A kitten laps up a bowl of cream.",
    "Stock markets fell sharply after the central bank raised interest rates by half a percentage point, the largest "
    "increase in more than twenty years.",
    "Shares dropped when borrowing became more expensive.",
    "Bonjour, naïve café! 猫 \U0001f408",
    "Yes",
]
# Whose attention is recorded: the first sentence's, in the last layer.
LAYER = 5

folder = pathlib.Path(__file__).resolve().parent
model_folder = folder.parents[1] / "target" / "minilm"
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(model_folder / "tokenizer.json"), pad_token="[PAD]")
# "eager" is the one that gives the weights.
model = transformers.BertModel.from_pretrained(model_folder, attn_implementation="eager", dtype=torch.float32).eval()

batch = tokenizer(SENTENCES, padding=True, truncation=True, max_length=256, return_tensors="pt")
with torch.no_grad():
    found = model(batch.input_ids, attention_mask=batch.attention_mask, output_attentions=True)
is_token = batch.attention_mask.unsqueeze(-1).float()
mean = (found.last_hidden_state * is_token).sum(1) / is_token.sum(1)
embeddings = torch.nn.functional.normalize(mean, dim=1)
lens = batch.attention_mask.sum(1).tolist()
weights = found.attentions[LAYER][0, :, : lens[0], : lens[0]]


def numbers(tensor):
    """A flat list of decimals, to a hundredth of what is compared."""
    return [round(x, 7) for x in tensor.flatten().tolist()]


record = {
    "recorded_with": f"transformers {transformers.__version__}, torch {torch.__version__}, float32, {platform.machine()}",
    "sentences": [
        {
            "text": text,
            "tokens": tokenizer.convert_ids_to_tokens(ids[:n]),
            "embedding": numbers(embedding),
        }
        for text, ids, n, embedding in zip(SENTENCES, batch.input_ids, lens, embeddings)
    ],
    "attention": {"layer": LAYER, "weights": numbers(weights)},
}
(folder / "reference.json").write_text(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
