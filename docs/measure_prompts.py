"""How often words find the right one of five worlds: paraphrases of each, and the mistakes.

python docs/measure_prompts.py
"""

from __future__ import annotations

from magrathea.errors import MagratheaError
from magrathea.joint import choose_world, text_of

WORLDS = {  # what the worlds say of themselves: --prompts, and what their datasets say
    "cart": ("a pole that stands on a cart and must be balanced by pushing the cart left or right", "CartPole-v1"),
    "pend": ("a pendulum that swings and is to be held upright by turning it with a motor", "Pendulum-v1"),
    "own": (
        "two squares and a shot: a blue square moves and shoots at a red square that bounces off the walls",
        "Own-v0",
    ),
    "pong": ("table tennis for two paddles and a ball, an arcade game of Atari", "ALE/Pong-v5"),
    "house": (
        "a text adventure in a house: walk through its rooms, open, take, put and lock things by writing",
        "magrathea/TextWorld-v0",
    ),
}
PARAPHRASES = {
    "cart": [
        "keep the pole upright on the moving cart",
        "balance a stick on a trolley",
        "push a cart to the left and right so that the pole does not fall",
        "cartpole",
        "a broom balanced on a wagon",
        "the classic balancing task with a cart",
        "stop the pole from tipping over",
        "shove the cart sideways under its pole",
        "a pole standing on wheels",
        "balancing an upright rod by moving its base",
    ],
    "pend": [
        "swing up a pendulum",
        "a motor turns a hanging rod until it stands",
        "pendulum",
        "a weight swinging on a rod with torque",
        "hold a swinging bar upright",
        "make the pendulum point upward with a weak motor",
        "swing back and forth to get to the top",
        "an inverted pendulum that one turns",
        "apply torque at the joint and swing it up",
        "something that swings like a clock",
    ],
    "own": [
        "a blue square shoots at a red square",
        "two squares that chase and shoot",
        "fire shots at a bouncing red block",
        "shooter with squares",
        "a bouncing target and a gun",
        "dodge and shoot the red square",
        "a small shooting game of coloured squares",
        "move the blue box and fire",
        "red square bounces off walls",
        "shoot the thing that bounces",
    ],
    "pong": [
        "ping pong",
        "play tennis against the computer",
        "two paddles hit a ball",
        "the Atari game Pong",
        "table tennis",
        "bounce the ball past the other paddle",
        "an old arcade game with bats and a ball",
        "hit a ball back and forth",
        "a racket game from the seventies",
        "score points when the opponent misses the ball",
    ],
    "house": [
        "explore a house by typing commands",
        "a text game with rooms",
        "interactive fiction",
        "open doors, take things, read descriptions",
        "an adventure played in words",
        "walk from the kitchen to the bedroom and pick up a key",
        "write what you do and read what happens",
        "unlock the chest and put the apple in it",
        "go north, look around, take the lamp",
        "a story told in text",
    ],
}

LATER = {  # written after the comparison of words was chosen, which the others were used for
    "cart": [
        "stop a stick falling from its little car",
        "the cart-pole problem",
        "balancing act",
        "slide left and right underneath the pole",
        "a vehicle that carries an upright pole",
    ],
    "pend": [
        "turn the motor until the rod is on top",
        "a swinging pendulum",
        "get the rod to stand by swinging",
        "torque on a pivot",
        "holding a pendulum up",
    ],
    "own": [
        "target practice with squares",
        "blue against red",
        "shoot the moving square",
        "a block fires bullets at another",
        "squares bouncing between walls",
    ],
    "pong": [
        "a match of table tennis",
        "control the paddle",
        "a ball between two bats",
        "Atari 2600 classic with a ball",
        "return the ball",
    ],
    "house": [
        "type what you want to do",
        "rooms, doors and chests in words",
        "a house told in sentences",
        "pick up objects and lock the door",
        "text adventure",
    ],
}


def main() -> None:
    texts = {
        name: text_of({"model": {"prompt": prompt}, "metadata": {"name": name, "env_id": env_id}})
        for name, (prompt, env_id) in WORLDS.items()
    }
    for title, paraphrases in (("ten paraphrases of each", PARAPHRASES), ("five more of each", LATER)):
        right = 0
        print(title)
        for name, prompts in paraphrases.items():
            chosen = [_chosen(prompt, texts) for prompt in prompts]
            right += sum(each == name for each in chosen)
            wrong = [f"'{prompt}' → {each}" for prompt, each in zip(prompts, chosen, strict=True) if each != name]
            print(f"    {name}: {len(prompts) - len(wrong)} of {len(prompts)}; {', '.join(wrong)}".rstrip("; "))
        print(f"    together: {right} of {sum(map(len, paraphrases.values()))}")


def _chosen(prompt: str, texts: dict[str, str]) -> str:
    try:
        return choose_world(prompt, texts)
    except MagratheaError:
        return "none"


if __name__ == "__main__":
    main()
