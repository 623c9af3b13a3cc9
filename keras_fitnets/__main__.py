"""`python -m keras_fitnets`."""

from keras_fitnets.cli import main

if __name__ == "__main__":
    main(prog_name="python -m keras_fitnets")
