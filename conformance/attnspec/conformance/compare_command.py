import click
@click.command(name="compare")
def compare_command() -> None:
    pass
