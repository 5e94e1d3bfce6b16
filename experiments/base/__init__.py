"""What every experiment needs: command lines, results beside the report's, states of runs, trainings as commands."""
