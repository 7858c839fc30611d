from embedsvc.cli import main

main()
